"""Means over seeds, and how sure one may be of a difference between two of them."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binom, bootstrap

LONGEST = 1e6
"""From here on a number is written with its power of ten."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: The mean; None when there are no values.
        standard_error: Sample deviation over the square root of the count; None below two values.
        count: How many values.
    """

    mean: float | None
    standard_error: float | None
    count: int

    def text(self, digits: int, scale: float = 1.0) -> str:
        """Return `mean ± standard error`, both multiplied by `scale`, as `number_texts` writes them."""
        if self.mean is None:
            return "–"
        return " ± ".join(
            number_texts([value * scale for value in (self.mean, self.standard_error) if value is not None], digits)
        )


def number_texts(values: Sequence[float], digits: int, sign: str = "") -> list[str]:
    """Return numbers that belong together with so many decimals.

    Where the largest would have seven digits or more before the point, or would round to 0, all have four significant
    digits and a power of ten.

    Args:
        values: Finite numbers.
        digits: Decimals.
        sign: `+` for a sign before positive numbers too.
    """
    largest = max((abs(value) for value in values), default=0.0)
    readable = not largest or 0.5 * 10**-digits <= largest < LONGEST
    return [f"{value:{sign}.{digits}f}" if readable else f"{value:{sign}.3e}" for value in values]


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and its standard error, `s / sqrt(n)` with `s² = Σ (x - mean)² / (n - 1)`.

    Args:
        values: One number for each seed.

    Raises:
        ValueError: If a value is infinite or not a number.
    """
    _require_finite(values)
    count = len(values)
    mean = statistics.fmean(values) if count else None
    error = statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return Estimate(mean, error, count)


def bootstrap_interval(
    values: Sequence[float],
    baseline: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return a bootstrap confidence interval of `mean(values) - mean(baseline)`.

    Both sides are resampled independently of each other. The ends are bias-corrected and accelerated (BCa); where that
    correction is undefined, they are plain percentiles of the resampled differences. With fewer than about ten seeds
    on a side the interval is narrower than its confidence promises.

    Args:
        values: One number for each seed.
        baseline: The same for what it is compared with; the seeds need not match.
        confidence: Share of intervals that should cover the true difference, between 0 and 1.
        resamples: How many resampled differences.
        seed: Of the resampling; the same seed gives the same interval.

    Returns:
        The lower and the upper end; None below two values on a side, or where neither side varies.

    Raises:
        ValueError: If a value is infinite or not a number, or if `confidence` or `resamples` is out of range.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), equations 14.9 to 14.15.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not between 0 and 1: give a share such as 0.95")
    if resamples < 1:
        raise ValueError(f"resamples={resamples} leaves nothing to take percentiles of: give 1 or more")
    _require_finite([*values, *baseline])
    if min(len(values), len(baseline)) < 2:
        return None
    if len(set(values)) == len(set(baseline)) == 1:
        return None
    # Where BCa is undefined, SciPy says so with warnings and NaN; the percentiles of the same resamples then stand in.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = bootstrap(
            (values, baseline), _difference, n_resamples=resamples, confidence_level=confidence, method="BCa", rng=seed
        )
        ends = _ends(result)
        if ends is None:
            percentiles = bootstrap(
                (values, baseline), _difference, n_resamples=0, confidence_level=confidence, method="percentile",
                bootstrap_result=result,
            )  # fmt: skip
            ends = _ends(percentiles)
    return ends


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return an interval of the median that asks nothing of the distribution: two of the sorted values.

    Between the k-th smallest and the k-th largest of n independent values the median lies with probability
    `1 - 2 P(B < k)`, B binomial of n tries with chance ½; k is the largest that leaves the confidence.

    Args:
        values: Independent measurements.
        confidence: Share of intervals that should cover the true median, between 0 and 1.

    Returns:
        The lower and the upper end; None where even the whole range covers it too rarely, for 95 % below six values.

    Raises:
        ValueError: If a value is infinite or not a number, or if `confidence` is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not between 0 and 1: give a share such as 0.95")
    _require_finite(values)
    ordered, count = sorted(values), len(values)
    ranks = [k for k in range(1, count // 2 + 1) if 1 - 2 * float(binom.cdf(k - 1, count, 0.5)) >= confidence]
    return (ordered[ranks[-1] - 1], ordered[-ranks[-1]]) if ranks else None


def _difference(values: Any, baseline: Any, axis: int) -> Any:
    return values.mean(axis=axis) - baseline.mean(axis=axis)


def _ends(result: Any) -> tuple[float, float] | None:
    # Sorted, since two quantiles that are equal but for rounding may come out in either order.
    low, high = sorted(float(end) for end in result.confidence_interval)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _require_finite(values: Sequence[float]) -> None:
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"value {value} is not finite: leave diverged runs out and count them apart")
