"""RMSProp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from multirate.rules.base import Elements, Options, Rule, State, in_range, keep, ratio


@dataclass(frozen=True)
class RMSprop(Rule):
    """Tieleman and Hinton's RMSProp with the options of :class:`torch.optim.RMSprop`.

    Without momentum the previous direction is kept; with it the momentum buffer is the direction.
    """

    default_lr: ClassVar[float] = 1e-2

    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def check(self, options: Options) -> None:
        super().check(options)
        in_range("alpha", options["alpha"], low=0.0, high=1.0)
        in_range("momentum", options["momentum"], low=0.0)

    def buffers(self, options: Options) -> Mapping[str, float]:
        names = {"square_avg": 0.0}
        if options["momentum"] > 0:
            names["momentum_buffer"] = 0.0
        if options["centered"]:
            names["grad_avg"] = 0.0
        return names

    def keeps_direction(self, options: Options) -> bool:
        return not options["momentum"] > 0

    def rebuild(self, state: State, c: Mapping[str, Any], options: Options) -> Elements:
        return state["momentum_buffer"]

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        alpha, momentum = options["alpha"], options["momentum"]
        second = state["square_avg"].mul_(keep(alpha, live)).addcmul_(gradient, gradient, value=1.0 - alpha)
        if options["centered"]:
            mean = state["grad_avg"].lerp_(gradient, live * (1.0 - alpha))
            second = second.addcmul(mean, mean, value=-1.0)
        direction = ratio(gradient, second.sqrt().add_(options["eps"]))
        if momentum > 0:
            return state["momentum_buffer"].mul_(keep(momentum, live)).add_(direction)
        return direction


@dataclass(frozen=True)
class RootMeanSquare(RMSprop):
    """RMSProp's direction without a momentum buffer, for averaged iterates: the average does what a momentum does.

    ``momentum`` is the weight of the average in the point where gradients are taken.
    """

    momentum: float = 0.8

    def check(self, options: Options) -> None:
        super().check(options)
        in_range("momentum", options["momentum"], low=0.0, below=1.0)

    def buffers(self, options: Options) -> Mapping[str, float]:
        return super().buffers({**options, "momentum": 0.0})

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        return super().update(gradient, state, c, live, {**options, "momentum": 0.0})

    def interpolation(self, options: Options) -> float:
        beta: float = options["momentum"]
        return beta
