"""Lion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from multirate.rules.base import Elements, Options, Rule, State


@dataclass(frozen=True)
class Lion(Rule):
    """Chen et al. 2023: the sign of an interpolated momentum.

    The previous direction cannot be rebuilt from the one momentum; being a sign, it is kept in one byte an element.
    """

    default_lr: ClassVar[float] = 1e-4
    direction_dtype: ClassVar[torch.dtype | None] = torch.int8

    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = True

    def buffers(self, options: Options) -> Mapping[str, float]:
        return {"exp_avg": 0.0}

    def keeps_direction(self, options: Options) -> bool:
        return True

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        beta1, beta2 = options["betas"]
        direction = state["exp_avg"].lerp(gradient, 1.0 - beta1).sign()
        state["exp_avg"].lerp_(gradient, live * (1.0 - beta2))
        return direction
