"""Adam and AMSGrad, with coupled or decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from multirate.rules.base import Elements, Options, Rule, State, keep, one_minus_power, ratio


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
        root = one_minus_power(beta2, scalars["step"]).sqrt()
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


def update_moments(gradient: Elements, state: State, live: Tensor, options: Options) -> None:
    """The exponential averages of the gradient and of its square."""
    beta1, beta2 = options["betas"]
    state["exp_avg"].lerp_(gradient, live * (1.0 - beta1))
    state["exp_avg_sq"].mul_(keep(beta2, live)).addcmul_(gradient, gradient, value=1.0 - beta2)
