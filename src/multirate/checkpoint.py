"""What a state dict holds and how it is taken in, in its own precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from multirate.optimizer import MultiRate

_FOREIGN_OPTIONS = ("fused", "capturable", "differentiable", "decoupled_weight_decay")
_LEARNED = ("rate.", "log_rate.", "weight.")


def load(optimizer: MultiRate, state_dict: dict[str, Any], load_base: Callable[[dict[str, Any]], None]) -> None:
    """Loads a state dict: hooks and group checks by torch, values by us.

    ``torch.optim.Optimizer`` casts every value to its parameter's type, which would cut the learned rates of
    half-precision models; values are therefore copied from the state dict itself, into the tensors that exist.

    Args:
        optimizer: The optimizer to load into.
        state_dict: As :meth:`torch.optim.Optimizer.state_dict` made it, by this class or by one of torch's.
        load_base: ``torch.optim.Optimizer.load_state_dict`` bound to the optimizer.
    """
    kept = {parameter: optimizer.state[parameter] for parameter in optimizer._parameters}
    taken: dict[str, Any] = {}

    def complete(_: torch.optim.Optimizer, given: dict[str, Any]) -> dict[str, Any]:
        taken.update(_completed(optimizer, given))
        _check(optimizer, taken)
        return taken

    def adopt(_: torch.optim.Optimizer) -> None:
        optimizer.state.clear()
        optimizer.state.update(kept)
        for index, (_parameter, saved) in enumerate(_pairs(optimizer, taken)):
            _take(optimizer, index, saved)

    before = optimizer.register_load_state_dict_pre_hook(complete)
    after = optimizer.register_load_state_dict_post_hook(adopt, prepend=True)
    try:
        load_base(state_dict)
    finally:
        before.remove()
        after.remove()


def _completed(optimizer: MultiRate, given: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict with the options that it lacks, as a warm start from torch does, taken from the optimizer."""
    groups = list(given["param_groups"])
    if len(groups) == len(optimizer.param_groups):
        completed = []
        for own, saved in zip(optimizer.param_groups, groups, strict=True):
            foreign = [name for name in _FOREIGN_OPTIONS if name not in own]
            kept = {name: value for name, value in saved.items() if name not in foreign}
            completed.append({**{k: v for k, v in own.items() if k != "params"}, **kept})
        groups = completed
    return {**given, "param_groups": groups}


def _pairs(optimizer: MultiRate, given: Mapping[str, Any]) -> list[tuple[Tensor, Mapping[str, Any]]]:
    """Each parameter with its saved state."""
    ids = [i for group in given["param_groups"] for i in group["params"]]
    return [(p, given["state"].get(i, {})) for p, i in zip(optimizer._parameters, ids, strict=False)]


def _check(optimizer: MultiRate, given: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` before anything is changed if a value would find no place."""
    memory = optimizer._memory
    for index, (parameter, saved) in enumerate(_pairs(optimizer, given)):
        for key, value in saved.items():
            if not isinstance(key, str) or value is None:
                continue
            if key in memory.slots:
                expected = memory.view(key, index).numel()
            elif key.startswith(_LEARNED):
                raise ValueError(
                    f"state {key!r}: this optimizer has the levels {optimizer._tree.levels} and would lose it; "
                    "construct it with the levels and the adaptation the state was saved with"
                )
            else:
                expected = parameter.numel()
                if not isinstance(value, Tensor) or value.ndim == 0:
                    continue
            if torch.as_tensor(value).numel() != expected:
                raise ValueError(
                    f"state {key!r}: saved shape {tuple(torch.as_tensor(value).shape)} does not fit parameter {index} "
                    f"of shape {tuple(parameter.shape)}; load it into an optimizer of the same model and levels"
                )


def _take(optimizer: MultiRate, index: int, saved: Mapping[str, Any]) -> None:
    """Copies one parameter's saved values into its state."""
    parameter, memory = optimizer._parameters[index], optimizer._memory
    state = optimizer.state[parameter]
    memory.adopt(index, state, {k: v for k, v in saved.items() if v is not None})
    for key, value in saved.items():
        if key in memory.slots or value is None:
            continue
        if not isinstance(value, Tensor):
            state[key] = value
        elif isinstance(state.get(key), Tensor) or _elementwise(optimizer, parameter, key):
            state[key].copy_(value)
        else:
            own = torch.float32 if value.dtype in (torch.float16, torch.bfloat16) else value.dtype
            state[key] = value.detach().to(device=parameter.device, dtype=own, copy=True)
    if saved and "step" not in saved:
        # torch.optim.SGD counts no steps; a momentum that exists has seen at least one.
        state["step"].fill_(1.0)


def _elementwise(optimizer: MultiRate, parameter: Tensor, key: str) -> bool:
    """Makes state that was not made yet, of a parameter that is frozen, in its own type."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    if key not in optimizer._elementwise(group):
        return False
    optimizer._allocate(parameter, group)
    return True
