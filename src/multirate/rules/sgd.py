"""Gradient descent: plain, heavy ball and Nesterov."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from multirate.rules.base import Elements, Options, Rule, State, in_range, keep


@dataclass(frozen=True)
class SGD(Rule):
    """Stochastic gradient descent with the options of :class:`torch.optim.SGD`.

    Plain descent and Nesterov keep their previous direction (one buffer): with momentum ``v`` alone,
    ``g_{t-1} + μ v_{t-1}`` cannot be rebuilt. The heavy ball's direction is its momentum, so it needs none.
    """

    normalised = False

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def check(self, options: Options) -> None:
        super().check(options)
        in_range("momentum", options["momentum"], low=0.0)
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError(
                f"nesterov: True needs momentum > 0 and dampening 0, got momentum {options['momentum']!r} and "
                f"dampening {options['dampening']!r}; set momentum=0.9, dampening=0"
            )

    def buffers(self, options: Options) -> Mapping[str, float]:
        return {"momentum_buffer": 0.0} if options["momentum"] else {}

    def keeps_direction(self, options: Options) -> bool:
        return not options["momentum"] or bool(options["nesterov"])

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        if not options["dampening"]:
            return {}
        step = scalars["step"]
        return {"gradient": 1.0 - (step > 1).to(step.dtype) * options["dampening"]}

    def rebuild(self, state: State, c: Mapping[str, Any], options: Options) -> Elements:
        return state["momentum_buffer"]

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        momentum = options["momentum"]
        if not momentum:
            return gradient
        share = gradient * c["gradient"] if "gradient" in c else gradient
        buffer = state["momentum_buffer"].mul_(keep(momentum, live)).add_(share)
        return gradient + buffer * momentum if options["nesterov"] else buffer


@dataclass(frozen=True)
class Gradient(SGD):
    """The gradient itself, for averaged iterates: the average does what a momentum does.

    ``momentum`` is the weight of the average in the point where gradients are taken. Momentum of any kind averages
    already, so ``dampening`` and ``nesterov`` change nothing.
    """

    momentum: float = 0.8

    def check(self, options: Options) -> None:
        super().check(options)
        in_range("momentum", options["momentum"], low=0.0, below=1.0)

    def buffers(self, options: Options) -> Mapping[str, float]:
        return {}

    def keeps_direction(self, options: Options) -> bool:
        return True

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        return {}

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        return gradient

    def interpolation(self, options: Options) -> float:
        beta: float = options["momentum"]
        return beta
