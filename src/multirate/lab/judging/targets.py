"""How long it takes to reach a target, over seeds of which some may never reach it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Reached:
    """When seeds reached a target.

    Attributes:
        median: Median over all seeds, in steps or seconds; those that never arrived count as later than any other, so
            it is None when the middle seed did not arrive.
        fraction: Share of seeds that arrived, 0 to 1; None when there are no seeds.
        count: How many seeds, arrived or not.
    """

    median: float | None
    fraction: float | None
    count: int


def steps_to_target(
    steps: Sequence[float], values: Sequence[float], target: float, lower_is_better: bool = True
) -> float | None:
    """Return the first step at which a curve reaches a target, or None when it never does.

    Between two evaluations (s₀, v₀) and (s₁, v₁) the curve is a straight line, which meets the target at
    `s₀ + (s₁ - s₀) (v₀ - target) / (v₀ - v₁)`. A first evaluation already at the target counts at its own step, and so
    does an evaluation that follows one that was not finite.

    Args:
        steps: At which the curve was evaluated, ascending.
        values: The curve; infinite or not a number after a divergence.
        target: In the unit of the values; touching it is enough.
        lower_is_better: True for a loss, false for an accuracy.

    Returns:
        A step, not rounded.

    Raises:
        ValueError: If the lengths differ, the steps are not finite or descend, or the target is not finite.
    """
    return _first_crossing("steps", steps, values, target, lower_is_better)


def time_to_target(
    seconds: Sequence[float], values: Sequence[float], target: float, lower_is_better: bool = True
) -> float | None:
    """Return the time at which a curve reaches a target, or None when it never does: see `steps_to_target`.

    Args:
        seconds: Since the start of training, at each evaluation, ascending.
        values: The curve; infinite or not a number after a divergence.
        target: In the unit of the values; touching it is enough.
        lower_is_better: True for a loss, false for an accuracy.

    Raises:
        ValueError: If the lengths differ, the times are not finite or descend, or the target is not finite.
    """
    return _first_crossing("seconds", seconds, values, target, lower_is_better)


def reached(crossings: Sequence[float | None]) -> Reached:
    """Summarise over seeds when they reached a target.

    Leaving out the seeds that never arrived would flatter a method that seldom does, so they stay in the median as
    infinitely late. With an even count, both middle seeds must have arrived.

    Args:
        crossings: One for each seed, in steps or seconds; None for a seed that never arrived.
    """
    count = len(crossings)
    if not count:
        return Reached(None, None, 0)
    median = statistics.median(math.inf if crossing is None else crossing for crossing in crossings)
    arrived = sum(crossing is not None for crossing in crossings)
    return Reached(float(median) if math.isfinite(median) else None, arrived / count, count)


def _first_crossing(
    name: str, axis: Sequence[float], values: Sequence[float], target: float, lower_is_better: bool
) -> float | None:
    _check(name, axis, values, target)
    sign = 1.0 if lower_is_better else -1.0
    # How far each evaluation still is from the target; NaN compares false, so it never counts as arrived.
    gaps = [sign * (value - target) for value in values]
    first = next((index for index, gap in enumerate(gaps) if gap <= 0), None)
    if first is None:
        return None
    if first == 0 or not (math.isfinite(gaps[first - 1]) and math.isfinite(gaps[first])):
        return float(axis[first])
    before, after = gaps[first - 1], gaps[first]
    return axis[first - 1] + (axis[first] - axis[first - 1]) * (before / (before - after))


def _check(name: str, axis: Sequence[float], values: Sequence[float], target: float) -> None:
    if len(axis) != len(values):
        raise ValueError(f"{len(axis)} {name} but {len(values)} values: give one value for each evaluation")
    if not all(math.isfinite(position) for position in axis):
        raise ValueError(f"{name} {list(axis)} are not all finite: leave out evaluations without a position")
    for earlier, later in pairwise(axis):
        if later < earlier:
            raise ValueError(f"{name} descend from {earlier} to {later}: give the evaluations in their order")
    if not math.isfinite(target):
        raise ValueError(f"target={target} is not finite: give a number in the unit of the values")
