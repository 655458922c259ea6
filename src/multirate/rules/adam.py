"""Adam and AMSGrad, with coupled or decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from multirate.rules.base import Elements, Options, Rule, State, keep, one_minus_power, ratio, square_root


@dataclass(frozen=True)
class Adam(Rule):
    """Direction ``m̂ / (√v̂ + ε)`` with the options of :class:`torch.optim.Adam`."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    decoupled_weight_decay: bool = False

    def buffers(self, options: Options) -> Mapping[str, float]:
        names = {"exp_avg": 0.0, "exp_avg_sq": 0.0}
        return {**names, "max_exp_avg_sq": 0.0} if options["amsgrad"] else names

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        beta1, beta2 = options["betas"]
        root = square_root(one_minus_power(beta2, scalars["step"]))
        return {"scale": root / one_minus_power(beta1, scalars["step"]), "eps": root * options["eps"]}

    def rebuild(self, state: State, c: Mapping[str, Any], options: Options) -> Elements:
        second = state["max_exp_avg_sq"] if options["amsgrad"] else state["exp_avg_sq"]
        return ratio(state["exp_avg"], second.sqrt().add_(c["eps"]))

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        update_moments(gradient, state, live, options)
        if options["amsgrad"]:
            state["max_exp_avg_sq"].clamp_min_(state["exp_avg_sq"])
        return self.rebuild(state, c, options)


@dataclass(frozen=True)
class SecondMoment(Adam):
    """Adam's direction without its first moment, ``g / (√v̂ + ε)``, for averaged iterates.

    The point where gradients are taken lies between the iterate and its average, which does what a first moment does;
    ``betas[0]`` is the weight of the average there. A burst of large gradients would move a tensor by ``1/√(1 − β₂)``,
    32 times as far as usual, where Adam's first moment leaves a tenth of that: its root mean square is held to 3.
    """

    longest: ClassVar[float] = 3.0

    betas: tuple[float, float] = (0.8, 0.999)

    def buffers(self, options: Options) -> Mapping[str, float]:
        return {name: start for name, start in super().buffers(options).items() if name != "exp_avg"}

    def keeps_direction(self, options: Options) -> bool:
        return True

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        root = square_root(one_minus_power(options["betas"][1], scalars["step"]))
        return {"scale": root, "eps": root * options["eps"]}

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        update_second_moment(gradient, state, live, options)
        second = state["exp_avg_sq"]
        if options["amsgrad"]:
            second = state["max_exp_avg_sq"].clamp_min_(second)
        return ratio(gradient, second.sqrt().add_(c["eps"]))

    def interpolation(self, options: Options) -> float:
        beta: float = options["betas"][0]
        return beta


def update_second_moment(gradient: Elements, state: State, live: Tensor, options: Options) -> None:
    """The exponential average of the gradient's square."""
    beta2 = options["betas"][1]
    state["exp_avg_sq"].mul_(keep(beta2, live)).addcmul_(gradient, gradient, value=1.0 - beta2)


def update_moments(gradient: Elements, state: State, live: Tensor, options: Options) -> None:
    """The exponential averages of the gradient and of its square."""
    state["exp_avg"].lerp_(gradient, live * (1.0 - options["betas"][0]))
    update_second_moment(gradient, state, live, options)
