"""Means, their errors, and bootstrap intervals."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, sem

from multirate.lab.judging.estimates import Estimate, bootstrap_interval, estimate, median_interval, number_texts

FIRST = [0.3, 0.1, 0.4, 0.15]
SECOND = [0.5, 0.9, 0.6, 2.0]


def exact_bca(values, baseline, confidence):
    """Return Efron's interval from every one of the equally likely resamples, instead of a random part of them."""
    means = [np.mean(list(product(side, repeat=len(side))), axis=1) for side in (values, baseline)]
    differences = np.sort(np.subtract.outer(*means).ravel())
    difference = np.mean(values) - np.mean(baseline)
    below, equal = np.sum(differences < difference - 1e-12), np.sum(np.abs(differences - difference) <= 1e-12)
    z0 = norm.ppf((below + equal / 2) / len(differences))
    cubes = squares = 0.0
    for sign, side in ((1, values), (-1, baseline)):
        n = len(side)
        left_out = np.array([np.mean(side[:i] + side[i + 1 :]) for i in range(n)])
        influence = sign * (n - 1) * (left_out.mean() - left_out)
        cubes += np.sum(influence**3) / n**3
        squares += np.sum(influence**2) / n**2
    a = cubes / (6 * squares**1.5)
    z = z0 + norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    return np.quantile(differences, norm.cdf(z0 + z / (1 - a * z)))


def test_estimate_is_the_mean_and_its_standard_error():
    values = [0.3, 0.1, 0.4, 0.1]
    assert estimate(values) == Estimate(pytest.approx(0.225), pytest.approx(float(sem(values))), 4)
    # Deviations -1, 0, 1: variance 1, error 1 / sqrt(3).
    assert estimate([1.0, 2.0, 3.0]) == Estimate(2.0, pytest.approx(1 / math.sqrt(3)), 3)
    assert estimate([2.0]) == Estimate(2.0, None, 1)
    assert estimate([]) == Estimate(None, None, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_of_diverged_runs_are_refused(bad):
    with pytest.raises(ValueError, match="not finite: leave diverged runs out"):
        estimate([1.0, bad])
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_interval([1.0, 2.0], [1.0, bad])


def test_estimates_as_text():
    assert Estimate(0.97821, 0.00121, 3).text(2, scale=100) == "97.82 ± 0.12"
    assert Estimate(0.5, None, 1).text(3) == "0.500"
    assert Estimate(None, None, 0).text(3) == "–"


def test_numbers_that_decimals_do_not_suit_have_significant_digits():
    assert Estimate(2063298591890553.0, 1.5e15, 4).text(4) == "2.063e+15 ± 1.500e+15"
    assert Estimate(3.21e-7, 1e-9, 4).text(4) == "3.210e-07 ± 1.000e-09"
    assert Estimate(0.0, 0.0, 2).text(4) == "0.0000 ± 0.0000"
    # An error that rounds to nothing is no reason to write the mean otherwise.
    assert Estimate(0.25, 1e-7, 3).text(2) == "0.25 ± 0.00"
    assert number_texts([-999999.4, 2.0], 1) == ["-999999.4", "2.0"]
    assert number_texts([-1e6, 2.0], 1, sign="+") == ["-1.000e+06", "+2.000e+00"]
    assert number_texts([], 1) == []


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_is_that_of_every_possible_resample(confidence):
    exact = exact_bca(FIRST, SECOND, confidence)
    drawn = bootstrap_interval(FIRST, SECOND, confidence, resamples=60000)
    assert drawn == pytest.approx(tuple(exact), abs=0.02)
    # The skewed side pulls the corrected interval down, well beyond the tolerance, from the plain percentiles.
    plain = bootstrap(
        (FIRST, SECOND), lambda x, y, axis: x.mean(axis) - y.mean(axis), confidence_level=confidence,
        method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    assert plain.low - drawn[0] > 0.05


def test_interval_changes_sign_with_the_sides():
    low, high = bootstrap_interval(FIRST, SECOND, resamples=60000)
    assert bootstrap_interval(SECOND, FIRST, resamples=60000) == pytest.approx((-high, -low), abs=0.02)


def test_interval_depends_on_the_seed_alone():
    first = bootstrap_interval(FIRST, SECOND, resamples=200, seed=3)
    np.random.seed(1)
    assert bootstrap_interval(FIRST, SECOND, resamples=200, seed=3) == first
    assert bootstrap_interval(FIRST, SECOND, resamples=200, seed=4) != first


def test_interval_of_one_varying_side():
    low, high = bootstrap_interval([1.0, 1.0, 1.0], SECOND)
    assert low < 1 - np.mean(SECOND) < high


@pytest.mark.parametrize(
    ("values", "baseline"),
    [([], SECOND), ([1.0], SECOND), (FIRST, [1.0]), ([1.0, 1.0], [2.0, 2.0]), ([0.1] * 3, [0.1] * 7)],
)
def test_no_interval_of_degenerate_data(values, baseline):
    assert bootstrap_interval(values, baseline) is None


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_percentiles_stand_in_where_bca_is_undefined(scale):
    # Squares of such differences underflow or overflow, which leaves BCa undefined; the percentiles only scale.
    first, second = ([value * scale for value in side] for side in (FIRST, SECOND))
    drawn = bootstrap_interval(first, second, seed=5)
    percentiles = bootstrap(
        (FIRST, SECOND), lambda x, y, axis: x.mean(axis) - y.mean(axis), method="percentile", rng=5
    ).confidence_interval
    assert [end / scale for end in drawn] == pytest.approx(list(percentiles))


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"confidence=1\.0"):
        bootstrap_interval(FIRST, SECOND, confidence=1.0)
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap_interval(FIRST, SECOND, resamples=0)


def test_the_interval_of_a_median_is_between_ranks():
    assert median_interval([3.0, 1.0, 2.0, 6.0, 5.0]) is None  # 1 - 2 / 2⁵ is not enough
    assert median_interval([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (1.0, 6.0)
    # 10 values: 1 - 2 · 11 / 1024 = 97.9 % between the second ones, 89 % between the third.
    assert median_interval([float(value) for value in range(10)]) == (1.0, 8.0)
    assert median_interval([float(value) for value in range(10)], confidence=0.85) == (2.0, 7.0)
    with pytest.raises(ValueError, match="confidence"):
        median_interval([1.0], confidence=1.0)
    with pytest.raises(ValueError, match="not finite"):
        median_interval([1.0, math.inf])
