"""Ratios of losses, their means, and paired tests, against numbers by hand."""

import math

import pytest

from multirate.lab.judging.scores import CAP, geometric_mean, loss_ratio, pair_tests


@pytest.mark.parametrize(
    ("loss", "tuned", "floor", "expected"),
    [
        (0.3, 0.2, 0.0, 1.5),
        (0.1, 0.2, 0.0, 0.5),
        (2.0, 0.5, 1.0, 2.0),  # (2 + 1) / (½ + 1)
        (0.0, 0.0, 1.0, 1.0),
        (1e9, 0.2, 0.0, CAP),
        (0.0, 0.2, 0.0, 1 / CAP),
        (None, 0.2, 0.0, CAP),
    ],
)
def test_a_ratio_is_capped_and_a_diverged_run_has_the_cap(loss, tuned, floor, expected):
    assert loss_ratio(loss, tuned, floor) == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "tuned"), [(1.0, 0.0), (None, 0.0), (-1.0, 1.0)])
def test_ratios_without_a_meaning_are_refused(loss, tuned):
    with pytest.raises(ValueError, match="give a floor"):
        loss_ratio(loss, tuned)


def test_the_geometric_mean():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2)
    assert geometric_mean(iter(())) is None


def test_pairs_are_compared_by_the_logarithms_of_their_losses():
    # Differences of logarithms: 1, 2 and 3, so t = 2 / (1 / √3), and with 2 degrees of freedom p = 1 − t / √(t² + 2).
    first = {("a", 0): math.e, ("a", 1): math.e**2, ("b", 0): math.e**3, ("b", 1): None}
    second = {("a", 0): 1.0, ("a", 1): 1.0, ("b", 0): 1.0, ("b", 1): 1.0, ("c", 0): 5.0}
    (test,) = pair_tests({"x": first, "y": second}, {})
    assert (test.first, test.second, test.count, test.lost) == ("x", "y", 3, 1)
    assert test.ratio == pytest.approx(math.e**2)
    t = 2 * math.sqrt(3)
    assert test.p == pytest.approx(1 - t / math.sqrt(t * t + 2))


def test_the_floor_of_a_task_is_added_and_all_tests_are_corrected_together():
    methods = {
        "x": {("a", 0): 1.0, ("a", 1): 3.0},
        "y": {("a", 0): 0.0, ("a", 1): 0.0},
        "z": {("a", 0): 0.0, ("a", 1): 0.0},
    }
    tests = {(test.first, test.second): test for test in pair_tests(methods, {"a": 1.0})}
    assert list(tests) == [("x", "y"), ("x", "z"), ("y", "z")]
    assert tests["x", "y"].ratio == pytest.approx(math.sqrt(2 * 4))
    assert tests["y", "z"].ratio == 1
    assert tests["y", "z"].p is None
    # Logarithms of 2 and 4: t = 3, with one degree of freedom p = 1 − 2 arctan(3) / π, and two tests count.
    assert tests["x", "y"].p == tests["x", "z"].p == pytest.approx(2 * (1 - 2 * math.atan(3) / math.pi))


def test_what_was_never_run_together_has_no_ratio():
    (test,) = pair_tests({"x": {("a", 0): 1.0}, "y": {("b", 0): 1.0}}, {})
    assert (test.ratio, test.p, test.count, test.lost) == (None, None, 0, 0)
