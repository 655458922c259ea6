"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from multirate.rules.base import Elements, Options, Rule, State, in_range, ratio


@dataclass(frozen=True)
class Adagrad(Rule):
    """Duchi et al.'s Adagrad with the options of :class:`torch.optim.Adagrad`; keeps its previous direction."""

    default_lr: ClassVar[float] = 1e-2

    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def check(self, options: Options) -> None:
        super().check(options)
        in_range("lr_decay", options["lr_decay"], low=0.0)
        in_range("initial_accumulator_value", options["initial_accumulator_value"], low=0.0)

    def buffers(self, options: Options) -> Mapping[str, float]:
        return {"sum": float(options["initial_accumulator_value"])}

    def keeps_direction(self, options: Options) -> bool:
        return True

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        if not options["lr_decay"]:
            return {}
        return {"decay": 1.0 / (1.0 + (scalars["step"] - 1.0) * options["lr_decay"])}

    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        accumulated = state["sum"].addcmul_(gradient, gradient, value=1.0)
        direction = ratio(gradient, accumulated.sqrt().add_(options["eps"]))
        return direction * c["decay"] if "decay" in c else direction
