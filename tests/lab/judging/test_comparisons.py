"""Welch's test, Holm's correction, and comparisons with a baseline or a paper."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test, sem, ttest_ind
from statsmodels.stats.multitest import multipletests

from multirate.lab.judging.comparisons import Comparison, compare, compare_published, correct, p_text, welch
from multirate.lab.judging.estimates import bootstrap_interval

FIRST = [0.3, 0.1, 0.4, 0.15]
SECOND = [0.5, 0.9, 0.6]


def test_welch_agrees_with_scipy_on_the_raw_values():
    assert welch(FIRST, SECOND) == pytest.approx(float(ttest_ind(FIRST, SECOND, equal_var=False).pvalue))
    # Student's test would pool the variances.
    assert welch(FIRST, SECOND) != pytest.approx(float(ttest_ind(FIRST, SECOND).pvalue))


def test_welch_agrees_with_all_permutations_of_well_behaved_values():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 8), rng.normal(1.0, 1, 8)
    exact = permutation_test((first, second), lambda x, y, axis: x.mean(axis) - y.mean(axis), n_resamples=np.inf)
    assert welch(list(first), list(second)) == pytest.approx(float(exact.pvalue), abs=0.01)


def test_welch_says_nothing_where_it_is_undefined():
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([], []) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 3.0]) is not None


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_welch_does_not_depend_on_the_unit(scale):
    scaled = [[value * scale for value in side] for side in (FIRST, SECOND)]
    assert welch(*scaled) == pytest.approx(welch(FIRST, SECOND))


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1 is 0.03, 0.06, 0.04, and the last may not fall below the one before.
    assert correct([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert correct([0.6, 0.7]) == [1.0, 1.0]


def test_undefined_tests_neither_count_nor_move():
    assert correct([None, 0.04, None, 0.01]) == [None, pytest.approx(0.04), None, pytest.approx(0.02)]
    assert correct([None, None]) == [None, None]
    assert correct([]) == []


def test_holm_is_its_formula():
    p_values = list(np.random.default_rng(1).uniform(0, 0.3, 8))
    ascending = sorted(p_values)
    steps = [min(1.0, (8 - index) * p) for index, p in enumerate(ascending)]
    corrected = correct(p_values)
    assert corrected == pytest.approx([max(steps[: ascending.index(p) + 1]) for p in p_values])
    assert corrected == pytest.approx(list(multipletests(p_values, method="holm")[1]))


# Not Holm's: statsmodels collects garbage on each call of that one, which takes too long for so many.
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from(["bonferroni", "fdr_bh"]))
def test_other_corrections_are_those_of_statsmodels(p_values, method):
    corrected = correct(p_values, method)
    assert corrected == pytest.approx(list(multipletests(p_values, method=method)[1]))
    assert all(p - 1e-12 <= after <= 1 for p, after in zip(p_values, corrected, strict=True))


def test_correction_refuses_what_is_no_p_value():
    for bad in (1.2, -0.1, math.nan):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            correct([bad])
    with pytest.raises(ValueError, match="method"):
        correct([0.1], method="none such")


def test_comparisons_with_one_baseline_share_one_correction():
    groups = {"b": FIRST, "a": SECOND, "c": [0.55, 0.65, 0.8], "alone": [0.1], "none": []}
    (pairs,) = compare([groups], ["a"], resamples=500, seed=2)
    assert list(pairs) == [(name, "a") for name in ("b", "c", "alone", "none")]
    found = {name: comparison for (name, _), comparison in pairs.items()}
    p_b, p_c = welch(FIRST, SECOND), welch(groups["c"], SECOND)
    assert p_b < p_c
    assert found["b"] == Comparison(
        pytest.approx(0.2375 - 2 / 3),
        bootstrap_interval(FIRST, SECOND, resamples=500, seed=2),
        p_b,
        pytest.approx(2 * p_b),
    )
    assert (found["c"].p, found["c"].p_corrected) == (p_c, pytest.approx(max(p_c, 2 * p_b)))
    assert found["alone"] == Comparison(pytest.approx(0.1 - 2 / 3), None, None, None)
    assert found["none"] == Comparison(None, None, None, None)


def test_options_of_a_comparison_reach_their_places():
    groups = {"a": SECOND, "b": FIRST, "c": [0.2, 0.8]}
    (found,) = compare([groups], ["a"], confidence=0.5, resamples=300, seed=1, method="bonferroni")
    assert found["b", "a"].interval == bootstrap_interval(FIRST, SECOND, 0.5, 300, 1)
    assert found["c", "a"].p_corrected == pytest.approx(min(1, 2 * found["c", "a"].p))


def test_all_baselines_and_measures_share_one_correction():
    losses = {"a": SECOND, "b": FIRST, "c": [0.55, 0.65, 0.8], "d": [0.2, 0.25, 0.3]}
    accuracies = {name: [1 - loss**2 for loss in values] for name, values in losses.items()}
    found = compare([losses, accuracies], ["a", "b"], resamples=99)
    # Baselines are not compared among themselves.
    assert [list(row) for row in found] == [[("c", "a"), ("c", "b"), ("d", "a"), ("d", "b")]] * 2
    raw = [welch(groups[name], groups[baseline]) for groups in (losses, accuracies) for name, baseline in found[0]]
    assert [each.p for row in found for each in row.values()] == raw
    assert [each.p_corrected for row in found for each in row.values()] == pytest.approx(correct(raw))
    assert found[0]["d", "b"].difference == pytest.approx(0.25 - 0.2375)


def test_baseline_must_be_among_the_groups():
    assert compare([{"a": FIRST}], ["a"]) == [{}]
    with pytest.raises(ValueError, match=r"baseline 'z'.*choose one of a, b"):
        compare([{"a": FIRST, "b": SECOND}], ["a", "z"])


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_published_figures_serve_as_well_as_the_values_behind_them(confidence):
    test = ttest_ind(FIRST, SECOND, equal_var=False)
    found = compare_published(FIRST, np.mean(SECOND), sem(SECOND), len(SECOND), confidence=confidence)
    assert found.difference == pytest.approx(np.mean(FIRST) - np.mean(SECOND))
    assert found.p == pytest.approx(float(test.pvalue))
    assert found.interval == pytest.approx(tuple(test.confidence_interval(confidence)))
    assert found.p_corrected is None


def test_published_figures_by_hand():
    # Two equal errors of two values each leave ν = 2, where the two-sided p is 1 - t / sqrt(2 + t²), and the interval
    # of confidence c reaches t = c sqrt(2 / (1 - c²)). Here t = 2 / sqrt(2), and for c = 0.6 it is 0.75 sqrt(2).
    found = compare_published([9.0, 11.0], 8.0, 1.0, 2, confidence=0.6)
    assert found.p == pytest.approx(1 - math.sqrt(0.5))
    assert found.interval == pytest.approx((2 - 1.5, 2 + 1.5))


def test_published_figures_that_allow_no_test():
    assert compare_published([1.0], 2.0, 0.1, 5) == Comparison(-1.0, None, None, None)
    assert compare_published([1.0, 2.0], 2.0, 0.0, 1) == Comparison(-0.5, None, None, None)
    assert compare_published([1.0, 1.0], 2.0, 0.0, 5) == Comparison(-1.0, None, None, None)
    assert compare_published([], 2.0, 0.1, 5) == Comparison(None, None, None, None)


@pytest.mark.parametrize(
    ("mean", "error", "count", "confidence", "named"),
    [
        (math.nan, 0.1, 5, 0.95, "mean=nan"),
        (1.0, -0.1, 5, 0.95, "standard_error=-0.1"),
        (1.0, 0.1, 0, 0.95, "count=0"),
        (1.0, 0.1, 5, 0.0, "confidence=0.0"),
    ],
)
def test_published_figures_out_of_range_are_refused(mean, error, count, confidence, named):
    with pytest.raises(ValueError, match=named):
        compare_published(FIRST, mean, error, count, confidence=confidence)


def test_p_values_as_text():
    assert [p_text(p) for p in (None, 0.00099, 0.001, 0.0421)] == ["–", "< 0.001", "0.001", "0.042"]
