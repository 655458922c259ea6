"""Transition from learned to fixed rates (Section 3.5, Theorems 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from multirate.levels import Values
from multirate.rules.base import in_range


@dataclass(frozen=True)
class Transition:
    """``applied rate = τ(t) α* + (1 − τ(t)) α_∞`` with ``τ(t) = exp(−rate · t)``, t counted in steps from 1.

    Hypergradients carry the factor τ of the step that made the displacement they judge, by the chain rule.

    Args:
        rate: r > 0, per step; ``ln 2 / r`` steps halve the learned part.
        final_lr: α_∞ > 0; ``None``: the learning rate the optimizer starts with.
    """

    rate: float
    final_lr: float | None = None

    def __post_init__(self) -> None:
        in_range("transition rate", self.rate, low=0.0)
        if self.final_lr is not None and not in_range("transition final_lr", self.final_lr, low=0.0) > 0:
            raise ValueError(f"transition final_lr: {self.final_lr!r} must be positive; the rate it names is the last")

    def share(self, time: Tensor) -> Tensor:
        """τ(t), the share of the learned rate."""
        return (time * -self.rate).exp()

    def mix(self, rates: Values, time: Tensor, lr: float) -> Values:
        """``τ(t) α* + (1 − τ(t)) α_∞``; ``lr`` is α_∞ where none was given."""
        share = self.share(time)
        return rates * share + (1.0 - share) * (self.final_lr or lr)
