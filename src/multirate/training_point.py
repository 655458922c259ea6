"""Where gradients are taken is not what is evaluated: modules told to move their parameters between the two.

Averaged iterates take gradients at a point beside the average. Outside a training pass parameters hold the average, so
that evaluating, saving, copying and exporting a model are right without a thought. A forward pass in training mode
moves them to the training point, and the optimizer's step moves them back. An evaluation in between borrows the
average for the time it takes.
"""

from __future__ import annotations

import functools
import gc
import inspect
import warnings
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from multirate.places import Placed

_living: weakref.WeakSet[Placed] = weakref.WeakSet()


class Mover:
    """The hooks of one module that move an optimizer's parameters to where a pass needs them.

    The outermost module of a pass decides. They belong to one module and one optimizer: a copy of the module, or a
    pickled one, gets hooks that do nothing.
    """

    def __init__(self, module: nn.Module | None = None, optimizer: Placed | None = None) -> None:
        self._module = weakref.ref(module) if module is not None else None
        self._optimizer = weakref.ref(optimizer) if optimizer is not None else None

    def owner(self, module: nn.Module) -> Placed | None:
        """The optimizer to serve, while it lives and owns its parameters, and if this is the right module."""
        if self._optimizer is None or self._module is None or self._module() is not module:
            return None
        optimizer = self._optimizer()
        return None if optimizer is None or optimizer.place.released else optimizer

    def before(self, module: nn.Module, *_: Any) -> None:
        """Moves the parameters to where this pass needs them."""
        optimizer = self.owner(module)
        if optimizer is None or _unreal():
            return
        place = optimizer.place
        place.depth += 1
        if place.depth > 1:
            return
        if not module.training:
            if not torch.is_grad_enabled() and place.training:
                place.lent = optimizer.lend()
        elif torch.is_grad_enabled():
            optimizer.to_training_point()

    def after(self, module: nn.Module, *_: Any) -> None:
        """Takes back what an evaluation between a training pass and its step had borrowed."""
        optimizer = self.owner(module)
        if optimizer is None or optimizer.place.depth == 0 or _unreal():
            return
        place = optimizer.place
        place.depth -= 1
        if place.depth == 0 and place.lent is not None:
            lent, place.lent = place.lent, None
            optimizer.give_back(lent)

    def saved(self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """What is saved is the average."""
        optimizer = self.owner(module)
        if optimizer is not None and optimizer.place.training:
            for name, parameter in module.named_parameters(recurse=False):
                if prefix + name in state:
                    state[prefix + name] = optimizer.average_of(parameter)

    def loading(self, module: nn.Module, *_: Any) -> None:
        """What is loaded is an average."""
        optimizer = self.owner(module)
        if optimizer is not None:
            optimizer.to_average()

    def __deepcopy__(self, memo: dict[int, Any]) -> Mover:
        return Mover()

    def __reduce__(self) -> tuple[type[Mover], tuple[()]]:
        return Mover, ()


def _unreal() -> bool:
    """Whether a pass is a rehearsal, which must not move anything: of an export, or under ``torch.func``."""
    if torch.compiler.is_compiling():
        return bool(getattr(torch.compiler, "is_exporting", bool)())
    level = torch._C._functorch.maybe_current_level()
    return level is not None or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def attach(optimizer: Placed, modules: Iterable[nn.Module]) -> None:
    """Hooks modules so that passes through them find the parameters of an optimizer where they should be.

    An older optimizer of any of the parameters no longer moves them.
    """
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for other in list(_living):
        theirs = {id(p) for group in other.param_groups for p in group["params"]}
        if other is not optimizer and not other.place.released and mine & theirs:
            if theirs - mine:
                warnings.warn(
                    f"params: {len(mine & theirs)} of the {len(theirs)} parameters of an earlier optimizer belong to "
                    "this one too, so that the earlier one no longer moves any of them to and from their average; give "
                    "every parameter to one optimizer alone",
                    stacklevel=2,
                )
            other.to_average()
            other.place.released = True
            other.let_go()
    _living.add(optimizer)
    for module in modules:
        hooks = [getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values()]
        if any(isinstance(hook, Mover) and hook.owner(module) is optimizer for hook in hooks):
            continue
        mover = Mover(module, optimizer)
        module.register_forward_pre_hook(mover.before, prepend=True)
        module.register_forward_hook(mover.after, always_call=True)
        module.register_state_dict_post_hook(functools.partial(Mover.saved, mover))  # torch marks it with an attribute
        module.register_load_state_dict_pre_hook(mover.loading)


def modules_behind(params: Any) -> Iterator[nn.Module]:
    """The modules that were given, or whose ``parameters()`` or ``named_parameters()`` were; nothing is consumed."""
    if isinstance(params, nn.Module):
        yield params
    elif inspect.isgenerator(params):
        owner = inspect.getgeneratorlocals(params).get("self")
        if isinstance(owner, nn.Module):
            yield owner
    elif isinstance(params, (list, tuple)):
        for item in params:
            if isinstance(item, dict):
                yield from modules_behind(item.get("params"))


def with_parameters(modules: Iterable[nn.Module], wanted: set[int]) -> list[nn.Module]:
    """Those of some modules and of the modules in them that have wanted parameters, their own or further down."""
    found: dict[int, nn.Module] = {}
    for root in modules:
        for module in root.modules():
            if id(module) not in found and any(id(p) in wanted for p in module.parameters()):
                found[id(module)] = module
    return list(found.values())


def owners_of(wanted: set[int]) -> list[nn.Module]:
    """Every living module with wanted parameters, its own or further down, found by looking at all objects once."""
    living = [o for o in gc.get_objects() if issubclass(type(o), nn.Module) and "_modules" in o.__dict__]
    found = {
        id(module): module
        for module in living
        if any(id(p) in wanted for p in module.__dict__.get("_parameters", {}).values())
    }
    grown = True
    while grown:
        more = [m for m in living if id(m) not in found and any(id(c) in found for c in m._modules.values())]
        found.update((id(module), module) for module in more)
        grown = bool(more)
    return list(found.values())


def unversioned(parameters: list[Tensor]) -> Any:
    """Moves in this context do not invalidate a graph that was recorded at the values they come back to."""
    if torch.compiler.is_compiling():
        return torch.no_grad()
    return torch.autograd.grad_mode._unsafe_preserve_version_counter(tuple(parameters))
