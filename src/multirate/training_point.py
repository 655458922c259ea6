"""Where gradients are taken is not what is evaluated: modules told to move their parameters between the two.

Averaged iterates take gradients at a point beside the average. Outside a training pass parameters hold the average, so
that evaluating, saving, copying and exporting a model are right without a thought. A forward pass in training mode
moves them to the training point, and the optimizer's step moves them back.
"""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from multirate.averaged import Averaged


class Mover:
    """A forward pre-hook of one module that moves an optimizer's parameters to where the pass needs them.

    It belongs to one module and one optimizer: a copy of the module, or a pickled one, gets a hook that does nothing.
    """

    def __init__(self, module: nn.Module | None = None, optimizer: Averaged | None = None) -> None:
        self._module = weakref.ref(module) if module is not None else None
        self._optimizer = weakref.ref(optimizer) if optimizer is not None else None

    def serves(self, optimizer: Averaged) -> bool:
        """Whether it moves parameters of this optimizer."""
        return self._optimizer is not None and self._optimizer() is optimizer

    def owner(self) -> Averaged | None:
        """The optimizer whose parameters it moves, while that lives."""
        return self._optimizer() if self._optimizer is not None else None

    def release(self) -> None:
        """Does nothing from now on."""
        self._optimizer = None

    def __call__(self, module: nn.Module, *_: Any) -> None:
        """Moves the parameters to where this pass needs them."""
        optimizer = self.owner()
        if optimizer is None or self._module is None or self._module() is not module:
            return
        if not module.training:
            if not torch.is_grad_enabled():
                optimizer.to_average()
        elif torch.is_grad_enabled():
            optimizer.to_training_point()

    def before_saving(self, module: nn.Module, *_: Any) -> None:
        """A state-dict pre-hook: what is saved is the average."""
        optimizer = self.owner()
        if optimizer is not None and self._module is not None and self._module() is module:
            optimizer.to_average()

    def __deepcopy__(self, memo: dict[int, Any]) -> Mover:
        return Mover()

    def __reduce__(self) -> tuple[type[Mover], tuple[()]]:
        return Mover, ()


def attach(optimizer: Averaged, modules: Iterable[nn.Module]) -> None:
    """Hooks modules so that passes through them find the parameters of an optimizer where they should be.

    An older optimizer of the same parameters no longer moves them.
    """
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for module in modules:
        movers = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, Mover)]
        if any(mover.serves(optimizer) for mover in movers):
            continue
        for mover in movers:
            other = mover.owner()
            if other is not None and mine & {id(p) for group in other.param_groups for p in group["params"]}:
                mover.release()
        mover = Mover(module, optimizer)
        module.register_forward_pre_hook(mover)
        module.register_state_dict_pre_hook(mover.before_saving)


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


def owners_of(parameters: Iterable[Tensor]) -> list[nn.Module]:
    """Every living module that directly owns one of some parameters, found by looking at all objects once."""
    wanted = {id(parameter) for parameter in parameters}
    return [
        module
        for module in gc.get_objects()
        if issubclass(type(module), nn.Module)
        and any(id(p) in wanted for p in module.__dict__.get("_parameters", {}).values())
    ]
