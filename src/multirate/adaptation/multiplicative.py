"""Multiplicative rates (Baydin et al. 2018, Eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import ClassVar

from multirate.adaptation.base import (
    Adaptation,
    FinestRates,
    Measurement,
    check_bounds,
    move,
    note_agreement,
    per_level,
)
from multirate.adaptation.steps import HyperStep, Plain
from multirate.levels import ELEMENT, Values
from multirate.memory import Memory


def cosine(measured: Measurement, level: str) -> Values:
    """``⟨g, d⟩ / (‖g‖ ‖d‖)`` of every node, in [−1, 1]; 0 where either vanishes."""
    product = (measured.gradient_squares[level].sqrt()) * measured.direction_squares[level].sqrt()
    return (measured.sums[level] / product.clamp(1e-37, inf)).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Multiplicative(FinestRates):
    """``α ← α (1 + β cos(g_t, d_{t-1}))`` for every node of every level; the applied rate is that of the finest level.

    The change a step makes to a rate is at most a factor 1 ± β, whatever the scale of the gradients.

    Args:
        hyper_lr: β, one number or one per level.
        step: The step on a rate, see :mod:`multirate.adaptation.steps`.
        bounds: Smallest and largest rate.
    """

    needs_norms: ClassVar[bool] = True

    hyper_lr: float | Mapping[str, float] = 1e-2
    step: HyperStep = field(default_factory=Plain)
    bounds: tuple[float, float] = (0.0, inf)

    def for_levels(self, levels: Sequence[str], given: Sequence[str]) -> Adaptation:
        check_bounds(self.bounds)
        return replace(self, hyper_lr=per_level("hyper_lr", self.hyper_lr, levels))

    def update(self, memory: Memory, measured: Measurement, lr: float) -> Values:
        assert isinstance(self.hyper_lr, Mapping)
        cosines = {level: cosine(measured, level) for level in memory.tree.levels}
        for level, agreement in cosines.items():
            step = self.step(memory, level, agreement, measured.known(level))
            rates = memory[f"rate.{level}"]
            move(memory, measured, level, rates * (step * self.hyper_lr[level] + 1.0), self.bounds)
        note_agreement(memory, measured, {k: v for k, v in cosines.items() if k != ELEMENT})
        return self.combined(memory, lr)
