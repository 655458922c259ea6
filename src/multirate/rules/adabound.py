"""AdaBound: Adam whose rate is clipped between bounds that close in on a final rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multirate.rules.adam import update_moments
from multirate.rules.base import Elements, Options, Rule, State, in_range, one_minus_power, square_root


@dataclass(frozen=True)
class AdaBound(Rule):
    """Luo et al. 2019, as released or, with ``paper_form``, as Eq. (36) of the CAM-HD paper combines it.

    Released form: ``clip(α √c₂ / c₁ / (√v + ε), lower, upper) · m`` with ``lower = final_lr (1 − 1/(γt + 1))``,
    ``upper = final_lr (1 + 1/(γt))``. Paper form: ``clip(α/(√v + ε), lower, upper)/√t · m``
    with ``lower, upper = final_lr (1 ∓ 1/((1 − β₂) t + 1))``. Both bounds follow the schedule.

    The step is not linear in the rate: its derivative is ``m/(√v + ε)`` where nothing is clipped and 0 elsewhere.
    That derivative is the direction hypergradients are measured with, and is kept.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    final_lr: float = 0.1
    gamma: float = 1e-3
    amsbound: bool = False
    decoupled_weight_decay: bool = False
    paper_form: bool = False

    def check(self, options: Options) -> None:
        super().check(options)
        in_range("final_lr", options["final_lr"], low=0.0)
        in_range("gamma", options["gamma"], low=0.0, below=1.0)

    def buffers(self, options: Options) -> Mapping[str, float]:
        names = {"exp_avg": 0.0, "exp_avg_sq": 0.0}
        return {**names, "max_exp_avg_sq": 0.0} if options["amsbound"] else names

    def keeps_direction(self, options: Options) -> bool:
        return True

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        beta1, beta2 = options["betas"]
        step, final = scalars["step"], scalars["schedule"] * options["final_lr"]
        if options["paper_form"]:
            slack = 1.0 / ((1.0 - beta2) * step + 1.0)
            return {
                "lower": final * (1.0 - slack),
                "upper": final * (1.0 + slack),
                "unclipped": torch.ones_like(step),
                "after": step.rsqrt(),
            }
        return {
            "lower": final * (1.0 - 1.0 / (options["gamma"] * step + 1.0)),
            "upper": final * (1.0 + 1.0 / (options["gamma"] * step)),
            "unclipped": square_root(one_minus_power(beta2, step)) / one_minus_power(beta1, step),
            "after": torch.ones_like(step),
        }

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        update_moments(gradient, state, live, options)
        second = state["exp_avg_sq"]
        if options["amsbound"]:
            second = state["max_exp_avg_sq"].clamp_min_(second)
        return c["unclipped"] / (second.sqrt().add_(options["eps"]))

    def displacement(
        self, direction: Elements, state: State, c: Mapping[str, Any], rate: Elements, options: Options
    ) -> tuple[Elements, Elements] | None:
        wanted = direction * rate
        clipped = wanted.clamp(c["lower"], c["upper"])
        inside = (clipped - wanted).sign()
        momentum = state["exp_avg"] * c["after"]
        derivative = (1.0 - inside * inside) * direction * momentum
        return clipped * momentum, derivative
