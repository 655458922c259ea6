"""Scores of a method: its losses over those of the best tuned one, over many tasks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from scipy.stats import ttest_rel

from multirate.lab.judging.comparisons import correct

CAP = 100.0
"""Greatest ratio, and the least is one over it. A run that diverged has it: one failure weighs much, but is not all."""

Paired: TypeAlias = Mapping[tuple[str, int], "float | None"]
"""Losses by task and seed; None for a run that diverged."""


@dataclass(frozen=True)
class PairTest:
    """Two methods on the same tasks and seeds.

    Attributes:
        first: Name of one.
        second: Name of the other.
        ratio: Geometric mean of the first's losses over the second's; None without a common pair.
        count: How many tasks and seeds both finished.
        lost: On how many one of them diverged; they are left out.
        p: Two-sided p-value of the paired t-test on logarithms, corrected; None where it is undefined.
    """

    first: str
    second: str
    ratio: float | None
    count: int
    lost: int
    p: float | None


def loss_ratio(loss: float | None, tuned: float, floor: float = 0.0) -> float:
    """Return `(loss + floor) / (tuned + floor)` within `1 / CAP` and `CAP`, which a run that diverged has too.

    Args:
        loss: Final test loss; None when the run diverged.
        tuned: That of the best tuned method.
        floor: For losses whose least value is 0, where a ratio of two small numbers says nothing.

    Raises:
        ValueError: If a loss with its floor is negative, or the tuned one 0.
    """
    if tuned + floor <= 0:
        raise ValueError(f"tuned loss {tuned} with floor {floor} is not above 0: give a floor")
    if loss is None:
        return CAP
    if loss + floor < 0:
        raise ValueError(f"loss {loss} with floor {floor} is below 0: give a floor")
    return min(max((loss + floor) / (tuned + floor), 1 / CAP), CAP)


def geometric_mean(values: Iterable[float]) -> float | None:
    """Return the geometric mean of numbers above 0, or None when there are none."""
    known = list(values)
    return statistics.geometric_mean(known) if known else None


def pair_tests(methods: Mapping[str, Paired], floors: Mapping[str, float]) -> list[PairTest]:
    """Compare every two methods by a paired t-test on `log(loss + floor)`, corrected together by Holm's method.

    The pairs are tasks and seeds. Seeds of one task are no independent tasks: a small p says that the difference is
    no accident of seeds on these tasks, not that it holds on others.

    Args:
        methods: Losses, by the name of the method.
        floors: By the name of the task; none is 0.

    Raises:
        ValueError: If a loss with its floor is not above 0.
    """
    found = [_pair(first, second, methods, floors) for first, second in combinations(methods, 2)]
    corrected = correct([test.p for test in found])
    return [
        PairTest(test.first, test.second, test.ratio, test.count, test.lost, p)
        for test, p in zip(found, corrected, strict=True)
    ]


def _pair(first: str, second: str, methods: Mapping[str, Paired], floors: Mapping[str, float]) -> PairTest:
    shared = [key for key in methods[first] if key in methods[second]]
    logarithms = [
        (math.log(one + floor), math.log(other + floor))
        for key in shared
        for one, other, floor in [(methods[first][key], methods[second][key], floors.get(key[0], 0.0))]
        if one is not None and other is not None
    ]
    differences = [one - other for one, other in logarithms]
    ratio = math.exp(statistics.fmean(differences)) if differences else None
    return PairTest(first, second, ratio, len(differences), len(shared) - len(differences), _paired_p(differences))


def _paired_p(differences: Sequence[float]) -> float | None:
    if len(differences) < 2 or len(set(differences)) == 1:
        return None
    return float(ttest_rel(differences, [0.0] * len(differences)).pvalue)
