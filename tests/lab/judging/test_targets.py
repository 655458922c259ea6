"""When curves reach targets."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multirate.lab.judging.targets import Reached, reached, steps_to_target, time_to_target

losses = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=12)


def test_crossing_lies_on_the_line_between_evaluations():
    # From 3 at step 10 to 1 at step 30, 1.5 is three quarters of the way.
    assert steps_to_target([0, 10, 30], [4.0, 3.0, 1.0], 1.5) == 25
    assert time_to_target([0.0, 0.5, 1.5], [4.0, 3.0, 1.0], 1.5) == 1.25
    assert steps_to_target([0, 100], [0.5, 0.9], 0.8, lower_is_better=False) == pytest.approx(75)


def test_touching_is_enough_and_the_first_time_counts():
    assert steps_to_target([0, 10, 20, 30], [2.0, 1.0, 3.0, 0.0], 1.0) == 10
    assert steps_to_target([5, 10], [1.0, 0.5], 1.0) == 5
    assert steps_to_target([5, 10], [0.5, 2.0], 1.0) == 5
    assert steps_to_target([0, 10], [2.0, 1.1], 1.0) is None
    assert steps_to_target([], [], 1.0) is None


def test_a_loss_target_is_not_an_accuracy_target():
    assert steps_to_target([0, 10], [0.2, 0.9], 0.5, lower_is_better=True) == 0
    assert steps_to_target([0, 10], [0.9, 0.2], 0.5, lower_is_better=False) == 0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_divergence_is_not_interpolated(bad):
    assert steps_to_target([0, 10, 20], [2.0, bad, 0.5], 1.0) == 20
    assert steps_to_target([0, 10, 20], [2.0, bad, bad], 1.0) is None


@given(losses, st.integers(-20, 20).map(lambda target: target + 0.5))
def test_crossing_is_the_first_one_of_a_dense_curve(values, target):
    steps = [3 * index for index in range(len(values))]
    dense = np.linspace(0, steps[-1], 3000 * (len(values) - 1) + 1)
    hits = np.flatnonzero(np.interp(dense, steps, values) <= target)
    found = steps_to_target(steps, values, target)
    if len(hits):
        assert found == pytest.approx(dense[hits[0]], abs=0.0011)
    else:
        assert found is None
    mirrored = steps_to_target(steps, [-value for value in values], -target, lower_is_better=False)
    assert mirrored == found


def test_curves_without_order_are_refused():
    with pytest.raises(ValueError, match="2 steps but 1 values"):
        steps_to_target([0, 1], [1.0], 0.5)
    with pytest.raises(ValueError, match=r"seconds descend from 2\.0 to 1\.0"):
        time_to_target([2.0, 1.0], [1.0, 0.0], 0.5)
    with pytest.raises(ValueError, match="not all finite"):
        time_to_target([0.0, math.nan], [1.0, 0.0], 0.5)
    with pytest.raises(ValueError, match="target=nan"):
        steps_to_target([0], [1.0], math.nan)


def test_a_clock_may_stand_still():
    assert time_to_target([1.0, 1.0], [2.0, 0.0], 1.0) == 1.0


def test_seeds_that_never_arrive_are_late_not_absent():
    assert reached([30.0, 10.0, 20.0]) == Reached(20.0, 1.0, 3)
    assert reached([10.0, None, 20.0]) == Reached(20.0, pytest.approx(2 / 3), 3)
    assert reached([10.0, None, None]) == Reached(None, pytest.approx(1 / 3), 3)
    assert reached([10.0, 20.0, 40.0, None]) == Reached(30.0, 0.75, 4)
    assert reached([10.0, 20.0, None, None]) == Reached(None, 0.5, 4)
    assert reached([None]) == Reached(None, 0.0, 1)
    assert reached([]) == Reached(None, None, 0)


@given(st.lists(st.none() | st.floats(0, 1e6), min_size=1))
def test_censored_median_is_that_of_very_late_arrivals(crossings):
    median = statistics.median(1e15 if crossing is None else crossing for crossing in crossings)
    assert reached(crossings).median == (median if median < 1e14 else None)
