"""How much it matters to a method that its learning rate was well chosen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RatePoint:
    """The final losses at one learning rate.

    Attributes:
        lr: The learning rate.
        median: Median over all seeds, where a diverged one counts as worse than any other; None when the middle seed
            diverged.
        low: Lowest loss; None when all seeds diverged.
        high: Highest loss of a seed that did not diverge; None when all did.
        diverged: Share of seeds that diverged, 0 to 1.
    """

    lr: float
    median: float | None
    low: float | None
    high: float | None
    diverged: float


def rate_curve(losses: Mapping[float, Sequence[float | None]]) -> list[RatePoint]:
    """Return the final loss as a curve over the learning rate, ascending.

    Args:
        losses: Final losses over seeds, by learning rate; None for a seed that diverged.

    Raises:
        ValueError: If a learning rate is not a finite number above 0, has no seeds, or has a loss that is not finite.
    """
    return [_point(lr, losses[lr]) for lr in sorted(losses)]


def best(curve: Sequence[RatePoint]) -> RatePoint | None:
    """Return the point with the lowest median, the first of several; None when no point has a median."""
    solved = [point for point in curve if point.median is not None]
    return min(solved, key=_median) if solved else None


def rates_within(curve: Sequence[RatePoint], factor: float) -> tuple[float, float] | None:
    """Return the learning rates around the best one whose median loss stays within `factor` times the best median.

    From the best point outwards on both sides, up to the first point above the bound. Between the last point within
    it and that one, the median is a straight line over `log10 lr`, and the end is where this line meets the bound. A
    point without a median gives no line: the end is then the last point within. So is it at the edge of the grid:
    an end that equals the lowest or highest rate tried says that the true one may lie beyond.

    Args:
        curve: Ascending in the learning rate, as from `rate_curve`.
        factor: 1 or more.

    Returns:
        The lowest and the highest learning rate; None when no point has a median.

    Raises:
        ValueError: If the factor is not a finite number of at least 1, or the best median is not above 0, where a
            factor means nothing.
    """
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"factor={factor} is not a finite number of at least 1: give one such as 1.1")
    top = best(curve)
    if top is None:
        return None
    lowest = _median(top)
    if lowest <= 0:
        raise ValueError(f"best median {lowest} at lr={top.lr} is not above 0: choose a loss that stays positive")
    at = curve.index(top)
    bound = factor * lowest
    return _end(curve[at::-1], bound), _end(curve[at:], bound)


def width_within(curve: Sequence[RatePoint], factor: float) -> float:
    """Return over how many decades of the learning rate the median stays within `factor` times the best median.

    It is `log10(high / low)` of `rates_within`, interpolated in log lr, and a lower bound where that range ends at an
    edge of the grid. It is 0 when no point has a median.

    Args:
        curve: Ascending in the learning rate, as from `rate_curve`.
        factor: 1 or more.

    Raises:
        ValueError: As `rates_within`.
    """
    rates = rates_within(curve, factor)
    return 0.0 if rates is None else math.log10(rates[1]) - math.log10(rates[0])


def _point(lr: float, losses: Sequence[float | None]) -> RatePoint:
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr={lr} is not a finite number above 0: its logarithm is needed")
    if not losses:
        raise ValueError(f"lr={lr} has no seeds: leave it out, or give None for each seed that diverged")
    finished = [loss for loss in losses if loss is not None]
    for loss in finished:
        if not math.isfinite(loss):
            raise ValueError(f"lr={lr}: loss {loss} is not finite: give None for a seed that diverged")
    diverged = len(losses) - len(finished)
    median = statistics.median([*finished, *[math.inf] * diverged])
    return RatePoint(
        lr=lr,
        median=median if math.isfinite(median) else None,
        low=min(finished, default=None),
        high=max(finished, default=None),
        diverged=diverged / len(losses),
    )


def _median(point: RatePoint) -> float:
    assert point.median is not None
    return point.median


def _end(outwards: Sequence[RatePoint], bound: float) -> float:
    """Return where a walk from the best point outwards leaves the bound."""
    within = outwards[0]
    for point in outwards[1:]:
        if point.median is None:
            return within.lr
        if point.median > bound:
            start, stop = math.log10(within.lr), math.log10(point.lr)
            share = (bound - _median(within)) / (point.median - _median(within))
            # A share of nothing is the grid's own rate, not its logarithm undone.
            return 10 ** (start + (stop - start) * share) if share else within.lr
        within = point
    return within.lr
