"""Performance profiles."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multirate.lab.judging.profiles import Profile, performance_profiles, ratio_grid


@st.composite
def cost_tables(draw):
    methods = [f"m{index}" for index in range(draw(st.integers(1, 4)))]
    cost = st.none() | st.integers(1, 6).map(float) | st.floats(1e-3, 1e3)
    rows = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(methods, cost)), min_size=1, max_size=6))
    return {f"t{index}": row for index, row in enumerate(rows)}


def by_definition(costs, method, tau):
    """Return the share of tasks on which a method costs at most tau times the lowest cost."""
    within = 0
    for row in costs.values():
        solved = [cost for cost in row.values() if cost is not None]
        within += row[method] is not None and row[method] / min(solved) <= tau
    return within / len(costs)


def test_profiles_by_hand():
    costs = {
        "one": {"a": 10.0, "b": 20.0, "c": None},
        "two": {"a": 30.0, "b": 10.0, "c": 10.0},
        "three": {"a": 5.0, "b": None, "c": 7.5},
        "four": {"a": None, "b": None, "c": None},
    }
    profiles = performance_profiles(costs)
    assert profiles == {
        "a": Profile((1.0, 1.0, 3.0), 4),
        "b": Profile((1.0, 2.0), 4),
        "c": Profile((1.0, 1.5), 4),
    }
    assert list(profiles) == ["a", "b", "c"]
    assert [profiles["a"].at(tau) for tau in (0.99, 1, 2.99, 3, 100)] == [0, 0.5, 0.5, 0.75, 0.75]
    assert ratio_grid(profiles.values()) == [1.0, 1.5, 2.0, 3.0]
    # ρ is 1/2 from 1 to 3 and 3/4 from 3 to 4: the area 1.75 over a width of 3.
    assert profiles["a"].score(4.0) == pytest.approx(1.75 / 3)
    assert profiles["a"].score(2.0) == pytest.approx(0.5)


def test_single_task_and_ties():
    profiles = performance_profiles({"only": {"a": 2.0, "b": 2.0, "c": 5.0, "d": None}})
    assert [profiles[name].at(1) for name in "abcd"] == [1, 1, 0, 0]
    assert [profiles[name].at(2.5) for name in "abcd"] == [1, 1, 1, 0]
    assert [profiles[name].score() for name in "abcd"] == pytest.approx([1, 1, 0.5, 0])


def test_where_all_fail_nobody_is_best():
    profiles = performance_profiles({"t": {"a": None, "b": None}})
    assert [profile.at(math.inf) for profile in profiles.values()] == [0, 0]
    assert ratio_grid(profiles.values()) == [1.0]


@given(cost_tables())
def test_profiles_are_their_definition_at_between_and_before_the_corners(costs):
    profiles = performance_profiles(costs)
    grid = ratio_grid(profiles.values())
    taus = [0.5, *grid, *(math.nextafter(tau, 0) for tau in grid), *(math.nextafter(tau, math.inf) for tau in grid)]
    for method, profile in profiles.items():
        for tau in taus:
            assert profile.at(tau) == by_definition(costs, method, tau)


@given(cost_tables())
def test_profiles_are_right_continuous_distribution_functions(costs):
    profiles = performance_profiles(costs)
    grid = ratio_grid(profiles.values())
    for method, profile in profiles.items():
        values = [profile.at(tau) for tau in grid]
        assert values == sorted(values)
        assert all(0 <= value <= 1 for value in values)
        for tau, later in pairwise([*grid, 2 * grid[-1]]):
            middle = (tau + later) / 2
            assert profile.at(tau) == profile.at(middle) or middle == later
        assert profile.at(math.nextafter(1, 0)) == 0
        assert values[-1] == sum(row[method] is not None for row in costs.values()) / len(costs)


@given(cost_tables())
def test_every_solved_task_has_a_best_method(costs):
    profiles = performance_profiles(costs)
    solved = sum(any(cost is not None for cost in row.values()) for row in costs.values()) / len(costs)
    assert sum(profile.at(1) for profile in profiles.values()) >= solved - 1e-12
    assert max(profile.at(1) for profile in profiles.values()) >= solved / len(profiles) - 1e-12


@given(cost_tables(), st.floats(1.1, 20))
def test_score_is_the_mean_height(costs, cap):
    edges = np.linspace(1, cap, 4001)
    middles = (edges[1:] + edges[:-1]) / 2
    for profile in performance_profiles(costs).values():
        height = np.mean([profile.at(tau) for tau in middles])
        assert profile.score(cap) == pytest.approx(height, abs=1e-3)


@given(cost_tables(), st.sampled_from([0.25, 2.0, 1024.0]))
def test_unit_of_a_task_does_not_matter(costs, scale):
    scaled = {
        task: {method: None if cost is None else cost * scale for method, cost in row.items()}
        for task, row in costs.items()
    }
    assert performance_profiles(scaled) == performance_profiles(costs)


@pytest.mark.parametrize("bad", [0.0, -0.3, math.nan, math.inf])
def test_costs_that_have_no_ratio_are_refused_with_their_task(bad):
    with pytest.raises(ValueError, match=r"task 'second'.*of b is not a finite number above 0"):
        performance_profiles({"first": {"a": 1.0, "b": 1.0}, "second": {"a": 1.0, "b": bad}})


def test_incomplete_tables_are_refused():
    with pytest.raises(ValueError, match=r"task 'second'.*differ in b, c"):
        performance_profiles({"first": {"a": 1.0, "b": 1.0}, "second": {"a": 1.0, "c": 1.0}})
    for empty in ({}, {"t": {}}):
        with pytest.raises(ValueError, match="costs is empty"):
            performance_profiles(empty)


@pytest.mark.parametrize("cap", [1.0, math.inf, math.nan])
def test_cap_must_leave_a_width(cap):
    with pytest.raises(ValueError, match="cap="):
        Profile((1.0,), 1).score(cap)
