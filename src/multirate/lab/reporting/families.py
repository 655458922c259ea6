"""Variants that differ in one option alone; of those that differ in their learning rate, which stands for all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from multirate.lab.judging.robustness import RatePoint, best, rate_curve
from multirate.lab.results import TrialResult
from multirate.lab.variants import Setting, Variant

FEWEST = 3
"""From so many values on an option counts as swept."""


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


@dataclass(frozen=True)
class Sweep:
    """An optimizer that was run on one task with several values of an option that is not its learning rate.

    Attributes:
        name: The variant without that option.
        option: Name of the option.
        variants: The variants by the value, ascending; of a value of several parts, by the last part.
        parts: Whether the values have several parts.
    """

    name: str
    option: str
    variants: Mapping[float, str]
    parts: bool


def find_families(results: Sequence[TrialResult]) -> list[Family]:
    """Return the families of one task with at least three learning rates, in the order of their first trial."""
    losses: dict[str, list[float | None]] = {}
    for result in results:
        losses.setdefault(result.optimizer, []).append(result.test_loss)
    return [
        Family(name, variants, rate_curve({lr: losses[variant] for lr, variant in variants.items()}))
        for (option, name), variants in _swept(losses).items()
        if option == "lr"
    ]


def find_sweeps(results: Sequence[TrialResult]) -> list[Sweep]:
    """Return what was run on one task with at least three values of an option, learning rates aside."""
    return [
        Sweep(name, option, variants, isinstance(Variant.parse(next(iter(variants.values()))).options[option], tuple))
        for (option, name), variants in _swept(dict.fromkeys(result.optimizer for result in results)).items()
        if option != "lr"
    ]


def _swept(optimizers: Iterable[str]) -> dict[tuple[str, str], dict[float, str]]:
    """Return variants by value, ascending, for every swept option and what is left of the variants without it."""
    found: dict[tuple[str, str], dict[float, list[str]]] = {}
    for text in optimizers:
        variant = Variant.parse(text)
        for option, value in variant.options.items():
            place = _place(value)
            # A rate of nothing is no point of a curve over the logarithm of rates.
            if place is not None and (place > 0 or option != "lr"):
                rest = {name: other for name, other in variant.options.items() if name != option}
                name = str(Variant(variant.optimizer, rest, variant.schedule))
                found.setdefault((option, name), {}).setdefault(place, []).append(text)
    return {
        key: {place: values[place][0] for place in sorted(values)}
        for key, values in found.items()
        if len(values) >= FEWEST and all(len(variants) == 1 for variants in values.values())
    }


def _place(value: Setting) -> float | None:
    """Return where a value stands on an axis; None for words."""
    last = value[-1] if isinstance(value, tuple) else value
    return None if isinstance(last, (bool, str)) or last is None else float(last)


def stands_for(name: str, results: Sequence[TrialResult]) -> str | None:
    """Return the variant that is meant by a name: the one of that name, or the best of those with further options.

    Args:
        name: A variant.
        results: Finished trials of one task.

    Returns:
        Of variants with further options the one with the lowest median loss, where a diverged seed counts as the worst;
        None when there is neither.
    """
    losses: dict[str, list[float]] = {}
    wanted = Variant.parse(name)
    for result in results:
        variant = Variant.parse(result.optimizer)
        same = (variant.optimizer, variant.schedule) == (wanted.optimizer, wanted.schedule)
        if same and wanted.options.items() <= variant.options.items():
            loss = math.inf if result.test_loss is None else result.test_loss
            losses.setdefault(result.optimizer, []).append(loss)
    if name in losses:
        return name
    return min(losses, key=lambda variant: statistics.median(losses[variant]), default=None)


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
