"""Robustness to the learning rate."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multirate.lab.judging.robustness import RatePoint, best, rate_curve, rates_within, width_within


def curve_of(medians):
    return rate_curve({lr: [median] for lr, median in medians.items()})


def test_curve_by_hand():
    curve = rate_curve({0.1: [3.0, None, 1.0], 0.001: [5.0, 2.0, 4.0, 3.0], 1.0: [None, 2.0, None], 10.0: [None]})
    assert curve == [
        RatePoint(0.001, 3.5, 2.0, 5.0, 0.0),
        RatePoint(0.1, 3.0, 1.0, 3.0, pytest.approx(1 / 3)),
        RatePoint(1.0, None, 2.0, 2.0, pytest.approx(2 / 3)),
        RatePoint(10.0, None, None, None, 1.0),
    ]
    assert best(curve) is curve[1]


def test_half_of_the_seeds_diverged_leaves_no_median():
    (point,) = rate_curve({0.1: [1.0, 2.0, None, None]})
    assert (point.median, point.low, point.high, point.diverged) == (None, 1.0, 2.0, 0.5)


def test_best_is_the_first_of_the_lowest():
    assert best(curve_of({0.1: 1.0, 0.01: 1.0, 1.0: 2.0})).lr == 0.01
    assert best(curve_of({0.1: None})) is None
    assert best([]) is None


def test_width_by_hand():
    # Bound 2: on the left 1 at 1e-2 and 3 at 1e-3 meet it half a decade out; on the right 1.5 at 1e-1 is within it
    # and 2.5 at 1e0 is not, which adds a decade and a half.
    curve = curve_of({1e-3: 3.0, 1e-2: 1.0, 1e-1: 1.5, 1e0: 2.5})
    assert rates_within(curve, 2.0) == pytest.approx((10**-2.5, 10**-0.5))
    assert width_within(curve, 2.0) == pytest.approx(2.0)
    assert width_within(curve, 1.5) == pytest.approx(1.25)
    assert width_within(curve, 1.0) == 0


def test_a_range_of_the_best_rate_alone_is_exactly_that_rate():
    for lr in (3e-4, 2e-3, 3e-3, 7e-3, 7e-2, 0.3, 0.6):
        curve = curve_of({lr / 3: 2.0, lr: 1.0, lr * 3: 2.0})
        assert rates_within(curve, 1.0) == (lr, lr)


def test_width_stops_at_the_first_bad_rate_although_later_ones_are_good():
    curve = curve_of({1e-3: 1.0, 1e-2: 3.0, 1e-1: 1.1})
    assert width_within(curve, 2.0) == pytest.approx(0.5)


def test_width_is_not_interpolated_into_divergence():
    curve = curve_of({1e-4: None, 1e-3: 1.0, 1e-2: 1.1, 1e-1: None})
    assert rates_within(curve, 2.0) == (1e-3, 1e-2)


def test_edges_of_the_grid_are_told_as_they_are():
    curve = curve_of({3e-4: 1.2, 2e-3: 1.0, 7e-2: 1.9})
    assert rates_within(curve, 2.0) == (3e-4, 7e-2)
    assert width_within(curve, 2.0) == pytest.approx(math.log10(7e-2 / 3e-4))


def test_a_method_that_always_diverges_has_no_width():
    curve = curve_of({0.1: None, 1.0: None})
    assert rates_within(curve, 2.0) is None
    assert width_within(curve, 2.0) == 0


@given(st.lists(st.none() | st.integers(1, 30).map(float), min_size=1, max_size=7), st.floats(1, 40))
def test_width_is_that_of_a_dense_curve(medians, factor):
    curve = curve_of({10.0 ** (index - 3): median for index, median in enumerate(medians)})
    top = best(curve)
    if top is None:
        return
    at = curve.index(top)
    # Along the line through the medians, a gap being infinitely bad from just beyond its neighbours.
    dense = np.linspace(0, len(medians) - 1, 1000 * (len(medians) - 1) + 1)
    left, right = np.floor(dense).astype(int), np.ceil(dense).astype(int)
    filled = np.array([math.inf if median is None else median for median in medians])
    share = dense - left
    with np.errstate(invalid="ignore"):
        line = np.where(left == right, filled[left], filled[left] * (1 - share) + filled[right] * share)
    good = line <= factor * top.median + 1e-9
    low = high = at * 1000
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(dense) - 1 and good[high + 1]:
        high += 1
    assert width_within(curve, factor) == pytest.approx((high - low) / 1000, abs=0.0025)


@given(st.lists(st.none() | st.floats(0.1, 30), min_size=1, max_size=7), st.floats(1, 5), st.floats(1, 5))
def test_width_grows_with_the_factor_and_ignores_the_unit(medians, factor, more):
    curve = curve_of({2.0**index: median for index, median in enumerate(medians)})
    shifted = curve_of({2.0 ** (index + 4): None if m is None else 8 * m for index, m in enumerate(medians)})
    assert width_within(curve, factor) <= width_within(curve, factor * more) + 1e-12
    assert width_within(shifted, factor) == pytest.approx(width_within(curve, factor), abs=1e-9)


def test_what_has_no_logarithm_or_no_loss_is_refused():
    for lr in (0.0, -0.1, math.inf):
        with pytest.raises(ValueError, match=f"lr={lr} is not a finite number above 0"):
            rate_curve({lr: [1.0]})
    with pytest.raises(ValueError, match=r"lr=0\.1 has no seeds"):
        rate_curve({0.1: []})
    with pytest.raises(ValueError, match=r"lr=0\.1: loss nan is not finite"):
        rate_curve({0.1: [1.0, math.nan]})


def test_factors_that_mean_nothing_are_refused():
    curve = curve_of({0.1: 1.0})
    for factor in (0.9, math.inf, math.nan):
        with pytest.raises(ValueError, match="factor="):
            width_within(curve, factor)
    with pytest.raises(ValueError, match=r"best median 0\.0 at lr=0\.1 is not above 0"):
        width_within(curve_of({0.1: 0.0, 1.0: 2.0}), 2.0)
