"""Rectified Adam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multirate.rules.adam import update_moments
from multirate.rules.base import Elements, Options, Rule, State, one_minus_power, square_root


@dataclass(frozen=True)
class RAdam(Rule):
    """Adam with the variance rectification of Liu et al. 2020, options of :class:`torch.optim.RAdam`."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False

    def buffers(self, options: Options) -> Mapping[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        beta1, beta2 = options["betas"]
        step = scalars["step"]
        bias1, bias2 = one_minus_power(beta1, step), one_minus_power(beta2, step)
        longest = 2.0 / (1.0 - beta2) - 1.0
        length = longest - 2.0 * step * (1.0 - bias2) / bias2
        ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        rectified = length > 5.0
        return {
            "scale": 1.0 / bias1,
            "adaptive": torch.where(rectified, square_root(ratio.clamp(min=0.0) * bias2), 0.0),
            "plain": torch.where(rectified, 0.0, 1.0).to(step.dtype),
        }

    def rebuild(self, state: State, c: Mapping[str, Any], options: Options) -> Elements:
        factor = c["adaptive"] / (state["exp_avg_sq"].sqrt().add_(options["eps"]))
        return factor.add_(c["plain"]).mul_(state["exp_avg"])

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        update_moments(gradient, state, live, options)
        return self.rebuild(state, c, options)
