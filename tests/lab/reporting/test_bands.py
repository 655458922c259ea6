"""Curves of several seeds as a centre and a band."""

import math

import pytest

from multirate.lab.reporting.bands import mean_band, mean_logarithm, quantiles, range_band, thinned


def test_the_mean_has_its_standard_error_as_band():
    band = mean_band([[0, 1], [0, 1]], [[1.0, 4.0], [3.0, 4.0]], scale=10)
    assert band.x == (0, 1)
    assert band.center == (20, 40)
    assert band.low == (pytest.approx(10), 40)
    assert band.high == (pytest.approx(30), 40)


def test_a_seed_that_stopped_early_or_has_holes_counts_where_it_has_values():
    band = mean_band([[0, 1, 2, 3], [0]], [[1.0, 2.0, None, 5.0], [3.0]])
    assert band.x == (0, 1, 3)
    assert band.center == (2, 2, 5)


def test_a_logarithmic_range_has_the_geometric_mean_and_leaves_out_what_has_no_logarithm():
    band = range_band([[0, 1, 2]] * 2, [[1e-4, 1e-3, -1.0], [1e-2, 0.0, 0.0]], logarithmic=True)
    assert band.x == (0, 1)
    assert band.center == (pytest.approx(1e-3), pytest.approx(1e-3))
    assert (band.low[0], band.high[0]) == (pytest.approx(1e-4), pytest.approx(1e-2))
    plain = range_band([[0]] * 2, [[1.0], [3.0]], logarithmic=False)
    assert (plain.low, plain.center, plain.high) == ((1,), (2,), (3,))


def test_nothing_gives_an_empty_band():
    assert mean_band([], []).x == ()
    assert range_band([[0, 1]], [[None, math.nan]], logarithmic=True).x == ()


def test_the_mean_logarithm_leaves_out_what_has_none():
    assert mean_logarithm([[1e-2, 1e-3, 0.0], [1e-4, None]]) == [-3, -3, None]


def test_quantiles_across_curves():
    curves = [[0.0, 1.0, None], [4.0, None, None], [2.0]]
    assert quantiles(curves, (0, 0.5, 1)) == [[0, 1, None], [2, 1, None], [4, 1, None]]
    assert quantiles([[1.0], [2.0], [4.0], [8.0]], (0.25,)) == [[1.75]]


def test_thinning_keeps_the_last_point_and_even_steps():
    assert thinned(range(10), 4) == [0, 3, 6, 9]
    assert thinned(range(9), 4) == [0, 3, 6, 8]
    assert thinned(range(3), 4) == [0, 1, 2]
    band = mean_band([range(100)], [[float(value) for value in range(100)]]).thinned(10)
    assert band.x == band.center == (*range(0, 91, 10), 99)
