"""Tests between optimizers, and between our figures and published ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy.stats import t
from statsmodels.stats.multitest import multipletests

from multirate.lab.judging.estimates import Estimate, bootstrap_interval, estimate


@dataclass(frozen=True)
class Comparison:
    """One group of values against a baseline or a published figure.

    Attributes:
        difference: Mean of the group minus mean of the baseline; None when one of them is empty.
        interval: Confidence interval of the difference; None where it is undefined.
        p: Two-sided p-value of Welch's test; None where it is undefined.
        p_corrected: The same, corrected for the number of tests made together; None where `p` is None or where no
            correction was asked for.
    """

    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    p_corrected: float | None


def welch(values: Sequence[float], baseline: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Welch's t-test, or None where it is undefined.

    It needs two values on each side, and some variation on one of them. With standard errors e₁ and e₂ of n₁ and n₂
    values, `difference / sqrt(e₁² + e₂²)` follows Student's distribution with
    `ν = (e₁² + e₂²)² / (e₁⁴ / (n₁ - 1) + e₂⁴ / (n₂ - 1))`.

    Args:
        values: One number for each seed.
        baseline: The same for what it is compared with; the seeds need not match.

    Raises:
        ValueError: If a value is infinite or not a number.

    Reference:
        Welch, The Generalization of "Student's" Problem when Several Different Population Variances are Involved,
        Biometrika 34 (1947).
    """
    return welch_of_estimates(estimate(values), estimate(baseline))


def correct(p_values: Sequence[float | None], method: str = "holm") -> list[float | None]:
    """Return p-values corrected for having been computed together.

    Holm's correction keeps the chance of even one false finding below the level: sorted ascending, the i-th of m
    p-values (from 1) becomes `max_{j ≤ i} min(1, (m - j + 1) p_j)`.

    Args:
        p_values: In any order; None marks a test that was undefined: it stays None and does not count.
        method: A method of `statsmodels.stats.multitest.multipletests`.

    Returns:
        The corrected p-values, in the order given.

    Raises:
        ValueError: If a p-value is not between 0 and 1, or if statsmodels has no such method.

    Reference:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    defined = [p for p in p_values if p is not None]
    for p in defined:
        if not 0 <= p <= 1:
            raise ValueError(f"p-value {p} is not between 0 and 1: give None for a test that is undefined")
    if not defined:
        return [None] * len(p_values)
    corrected = iter(multipletests(defined, method=method)[1])
    return [None if p is None else float(next(corrected)) for p in p_values]


def compare(
    measures: Sequence[Mapping[str, Sequence[float]]],
    baselines: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
    method: str = "holm",
) -> list[dict[tuple[str, str], Comparison]]:
    """Compare every group with every baseline in one measure or several, with one correction over all these tests.

    Baselines are not compared among themselves: further tests would cost those that were asked for.

    Args:
        measures: For each measure one number for each seed, by the name of the group.
        baselines: Names of the groups that the others are compared with.
        confidence: Of the intervals, which are not corrected, between 0 and 1.
        resamples: Of the bootstrap behind the intervals.
        seed: Of the bootstrap.
        method: Of the correction, as for `correct`.

    Returns:
        For each measure one comparison for each group that is no baseline with each baseline, by these two names.

    Raises:
        ValueError: If a measure has no group of a baseline's name, or a value is infinite or not a number.
    """
    found: list[dict[tuple[str, str], Comparison]] = []
    for groups in measures:
        if unknown := [name for name in baselines if name not in groups]:
            raise ValueError(f"baseline {unknown[0]!r} is not among the groups: choose one of {', '.join(groups)}")
        found.append(
            {
                (name, baseline): Comparison(
                    difference=_difference(estimate(values), estimate(groups[baseline])),
                    interval=bootstrap_interval(values, groups[baseline], confidence, resamples, seed),
                    p=welch(values, groups[baseline]),
                    p_corrected=None,
                )
                for name, values in groups.items()
                if name not in baselines
                for baseline in baselines
            }
        )
    corrected = iter(correct([each.p for row in found for each in row.values()], method))
    return [
        {pair: replace(comparison, p_corrected=next(corrected)) for pair, comparison in row.items()} for row in found
    ]


def compare_published(
    values: Sequence[float], mean: float, standard_error: float, count: int, *, confidence: float = 0.95
) -> Comparison:
    """Compare values with a published `mean ± standard error`, by Welch's test.

    The interval is `difference ± t_ν · sqrt(e₁² + e₂²)`, with the errors and ν of `welch`: published figures cannot be
    resampled.

    Args:
        values: One number for each seed.
        mean: The published mean, in the unit of the values.
        standard_error: The published standard error of the mean (not the deviation between seeds), in the same unit.
        count: Over how many seeds the figures were published.
        confidence: Of the interval, between 0 and 1.

    Returns:
        The comparison, without a corrected p-value: use `correct` over all that are made together.

    Raises:
        ValueError: If a value is not finite, the standard error is negative, the count is below 1 or `confidence` is
            out of range.
    """
    if not (math.isfinite(mean) and math.isfinite(standard_error) and standard_error >= 0):
        raise ValueError(f"mean={mean}, standard_error={standard_error}: both must be finite, the error not negative")
    if count < 1:
        raise ValueError(f"count={count} is no number of seeds: give 1 or more")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not between 0 and 1: give a share such as 0.95")
    ours, published = estimate(values), Estimate(mean, standard_error, count)
    return Comparison(
        difference=_difference(ours, published),
        interval=_welch_interval(ours, published, confidence),
        p=welch_of_estimates(ours, published),
        p_corrected=None,
    )


def p_text(p: float | None) -> str:
    """Return a p-value as people write it."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _difference(first: Estimate, second: Estimate) -> float | None:
    return None if first.mean is None or second.mean is None else first.mean - second.mean


def _error_and_freedom(first: Estimate, second: Estimate) -> tuple[float, float] | None:
    """Return the standard error of the difference and Welch's ν, or None where they are undefined."""
    if min(first.count, second.count) < 2 or first.standard_error is None or second.standard_error is None:
        return None
    error = math.hypot(first.standard_error, second.standard_error)
    if not error:
        return None
    # Relative to the whole error, so that its fourth powers neither vanish nor overflow.
    share = first.standard_error / error, second.standard_error / error
    return error, 1 / (share[0] ** 4 / (first.count - 1) + share[1] ** 4 / (second.count - 1))


def welch_of_estimates(first: Estimate, second: Estimate) -> float | None:
    """Return the p-value of `welch` from means, standard errors and counts alone, or None where it is undefined."""
    terms, difference = _error_and_freedom(first, second), _difference(first, second)
    if terms is None or difference is None:
        return None
    error, freedom = terms
    return float(2 * t.sf(abs(difference) / error, freedom))


def _welch_interval(first: Estimate, second: Estimate, confidence: float) -> tuple[float, float] | None:
    terms, difference = _error_and_freedom(first, second), _difference(first, second)
    if terms is None or difference is None:
        return None
    error, freedom = terms
    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return difference - half, difference + half
