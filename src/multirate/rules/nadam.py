"""Adam with Nesterov momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor

from multirate.rules.adam import update_moments
from multirate.rules.base import Elements, Options, Rule, State, in_range, one_minus_power, square_root


@dataclass(frozen=True)
class NAdam(Rule):
    """Dozat's NAdam with the options of :class:`torch.optim.NAdam`; keeps its previous direction, as Nesterov does."""

    default_lr: ClassVar[float] = 2e-3
    scalars: ClassVar[Mapping[str, float]] = {"mu_product": 1.0}

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False

    def check(self, options: Options) -> None:
        super().check(options)
        in_range("momentum_decay", options["momentum_decay"], low=0.0)

    def buffers(self, options: Options) -> Mapping[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def keeps_direction(self, options: Options) -> bool:
        return True

    def _momentum(self, step: Tensor, options: Options) -> Tensor:
        decay: Tensor = (step * (options["momentum_decay"] * log(0.96))).exp()
        return (1.0 - 0.5 * decay) * float(options["betas"][0])

    def advance_scalars(self, scalars: dict[str, Tensor], live: Tensor, options: Options) -> None:
        momentum = self._momentum(scalars["step"], options)
        scalars["mu_product"] = scalars["mu_product"] * (1.0 - live * (1.0 - momentum))

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        step, product = scalars["step"], scalars["mu_product"]
        momentum, following = self._momentum(step, options), self._momentum(step + 1, options)
        root = square_root(one_minus_power(options["betas"][1], step))
        # The product is still 1 when the first step is skipped; nothing is moved then, and it must not be by NaN.
        correction = torch.where(product < 1.0, 1.0 - product, 1.0)
        return {
            "gradient": root * (1.0 - momentum) / correction,
            "momentum": root * following / (1.0 - product * following),
            "eps": root * options["eps"],
        }

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        update_moments(gradient, state, live, options)
        ahead = (gradient * c["gradient"]).addcmul_(state["exp_avg"], c["momentum"])
        return ahead.div_(state["exp_avg_sq"].sqrt().add_(c["eps"]))
