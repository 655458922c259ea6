"""Learned rates around an optimizer that nothing is known of: its displacement is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multirate.adaptation import Adaptation, LogRates, Transition
from multirate.kernels import DIRECTION, TRACE, Batch
from multirate.levels import Level, Values
from multirate.optimizer import MultiRate
from multirate.rules import Rule
from multirate.rules.base import Elements, Options, State

_INNER = "wrapped."


@dataclass(frozen=True)
class Displacement(Rule):
    """Stands for a direction that another optimizer decides: what it moved a parameter by, over its first ``lr``."""

    def buffers(self, options: Options) -> Mapping[str, float]:
        return {}

    def keeps_direction(self, options: Options) -> bool:
        return True

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        raise AssertionError("the wrapped optimizer moves the parameters")


class Wrapped(MultiRate):
    """Made by :func:`wrap`; the inner optimizer is :attr:`optimizer`, whose param groups are shared."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        levels: Sequence[str | Level],
        adaptation: Adaptation,
        transition: Transition | float | None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer: {optimizer!r} is not a torch.optim.Optimizer; construct one and pass it")
        self.optimizer = optimizer
        super().__init__(
            [dict(group) for group in optimizer.param_groups],
            optimizer.defaults["lr"],
            rule=Displacement(),
            levels=levels,
            adaptation=adaptation,
            transition=transition,
        )
        for own, inner in zip(self.param_groups, optimizer.param_groups, strict=True):
            inner.update({name: value for name, value in own.items() if name not in inner})
        self.param_groups = optimizer.param_groups

    def _apply(self, batches: list[Batch], rates: Values, schedule: Tensor, live: Tensor) -> None:
        """Lets the inner optimizer move, measures by how much, and scales that by the learned rates.

        An optimizer that nothing is known of cannot be asked to undo a step, so a non-finite gradient has to be seen
        before it runs: this is the one place where a step reads a number back to the host.
        """
        if not bool(live > 0):
            return
        before = [[parameter.clone() for parameter in batch.parameters] for batch in batches]
        self.optimizer.step()
        if self.transition is not None:
            rates = self.transition.mix(rates, self._memory["time"][0], self._reference_lr)
        cells = self._tree.lift(rates, self._tree.finest, "cell") if isinstance(rates, Tensor) else None
        for batch, starts in zip(batches, before, strict=True):
            for position, i in enumerate(batch.index):
                parameter, start = batch.parameters[position], starts[position]
                rate = self._tree.broadcast(i, cells) if isinstance(cells, Tensor) else rates[i]
                direction = (start - parameter).to(self._memory.dtype) / self._reference_lr
                parameter.copy_(start - direction * rate.to(parameter.device))
                self._keep(batch, position, direction)

    def _formulas(self, batches: list[Batch], factor: Callable[[], Tensor]) -> None:
        """The inner optimizer moves, and nothing could be worked out on the way."""
        return None

    def _keep(self, batch: Batch, position: int, direction: Tensor) -> None:
        if batch.horizon > 0:
            batch.state[TRACE][position].mul_(batch.horizon).add_(direction)
        else:
            batch.state[DIRECTION][position].copy_(direction)

    def _factors(self) -> Tensor:
        """As for any rule, but the schedule is inside the displacement already: 1, or 0 where ``lr`` is 0."""
        factor = super()._factors()
        return factor.ne(0).to(factor.dtype)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the inner optimizer, which this one shares."""
        if self._ready and self.param_groups is self.optimizer.param_groups:
            self.optimizer.add_param_group(param_group)
            group = self.param_groups[-1]
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            self._build()
        else:
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """State of both optimizers, each parameter's in one dict; the inner one's names start with ``wrapped.``."""
        own, inner = super().state_dict(), self.optimizer.state_dict()["state"]
        merged = {
            i: {**state, **{f"{_INNER}{name}": value for name, value in inner.get(i, {}).items()}}
            for i, state in own["state"].items()
        }
        return {**own, "state": merged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned."""
        own: dict[Any, dict[str, Any]] = {}
        inner: dict[Any, dict[str, Any]] = {}
        for i, state in state_dict["state"].items():
            own[i] = {k: v for k, v in state.items() if not k.startswith(_INNER)}
            inner[i] = {k.removeprefix(_INNER): v for k, v in state.items() if k.startswith(_INNER)}
        super().load_state_dict({**state_dict, "state": own})
        inner = {i: state for i, state in inner.items() if state}
        self.optimizer.load_state_dict({**state_dict, "state": inner})
        self.param_groups = self.optimizer.param_groups

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizer": self.optimizer}


def wrap(
    optimizer: torch.optim.Optimizer,
    *,
    levels: Sequence[str | Level] = ("global", "layer"),
    adaptation: Adaptation | None = None,
    transition: Transition | float | None = None,
) -> Wrapped:
    """Learns rates for any ``torch.optim.Optimizer`` by measuring how far it moves each parameter.

    The displacement of the inner optimizer, over the ``lr`` it was constructed with, serves as direction; it costs one
    buffer per parameter element and, during a step, one copy of the parameters. Decoupled weight decay of the inner
    optimizer is part of what is measured. Hyper rates of 0 leave its trajectory as it is.

    Args:
        optimizer: The inner optimizer; it is stepped by the returned one and must not be stepped directly.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        adaptation: How rates move (default: log-rates).
        transition: Transition to a fixed rate, or its rate r.

    Returns:
        An optimizer that takes the inner one's place.

    Raises:
        ValueError: When ``optimizer`` is not one, or an option is out of range.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.wrap(torch.optim.NAdam(model.named_parameters(), lr=2e-3))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
    """
    return Wrapped(optimizer, levels, adaptation if adaptation is not None else LogRates(), transition)
