"""Variants that differ only in their learning rate, and which of them stands for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multirate.lab.judging.robustness import RatePoint, best, rate_curve
from multirate.lab.results import TrialResult
from multirate.lab.variants import Variant

FEWEST_RATES = 3


@dataclass(frozen=True)
class Family:
    """An optimizer that was run on one task with several learning rates.

    Attributes:
        name: The variant without its learning rate.
        variants: The variants, by learning rate, ascending.
        curve: The final loss at every learning rate, ascending.
    """

    name: str
    variants: Mapping[float, str]
    curve: Sequence[RatePoint]

    @property
    def method(self) -> str:
        """The family's name where it stands among single variants, of which one may have its bare name."""
        return f"{self.name} (best lr)"

    @property
    def best(self) -> str:
        """The variant with the lowest median loss; the one with the lowest rate when none has a median."""
        point = best(self.curve)
        return self.variants[self.curve[0].lr if point is None else point.lr]


def find_families(results: Sequence[TrialResult]) -> list[Family]:
    """Return the families of one task with at least three learning rates, in the order of their first trial."""
    found: dict[str, dict[float, str]] = {}
    for result in results:
        variant = Variant.parse(result.optimizer)
        lr = variant.options.get("lr")
        if isinstance(lr, (int, float)) and not isinstance(lr, bool) and lr > 0:
            rest = {name: value for name, value in variant.options.items() if name != "lr"}
            family = str(Variant(variant.optimizer, rest, variant.schedule))
            found.setdefault(family, {})[float(lr)] = result.optimizer
    losses: dict[str, list[float | None]] = {}
    for result in results:
        losses.setdefault(result.optimizer, []).append(result.test_loss)
    return [
        Family(
            name,
            {lr: variants[lr] for lr in sorted(variants)},
            rate_curve({lr: losses[variant] for lr, variant in variants.items()}),
        )
        for name, variants in found.items()
        if len(variants) >= FEWEST_RATES
    ]


def methods(optimizers: Sequence[str], families: Sequence[Family]) -> dict[str, str]:
    """Return what to show of some optimizers: single variants, and the best of every family, by the name of the method.

    Args:
        optimizers: The variants of one task, in the order wanted.
        families: The families of that task.
    """
    members = {variant: family for family in families for variant in family.variants.values()}
    shown: dict[str, str] = {}
    for optimizer in optimizers:
        family = members.get(optimizer)
        if family is None:
            shown[optimizer] = optimizer
        else:
            shown[family.method] = family.best
    return shown
