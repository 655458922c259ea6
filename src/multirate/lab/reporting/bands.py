"""Curves of several seeds, drawn together: a centre line and a band around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

Curve: TypeAlias = Sequence["float | None"]
Value = TypeVar("Value")
Floats: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Band:
    """A centre with a lower and an upper edge over a shared axis, holes left out."""

    x: tuple[float, ...]
    center: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def thinned(self, most: int) -> Band:
        """Return the band with about so many of its points, evenly chosen, the last one among them."""
        kept = thinned(range(len(self.x)), most)
        x, center, low, high = (
            tuple(values[index] for index in kept) for values in (self.x, self.center, self.low, self.high)
        )
        return Band(x, center, low, high)


def thinned(values: Sequence[Value], most: int) -> list[Value]:
    """Return every k-th value and the last one, k as small as `most` allows."""
    every = max(1, math.ceil(len(values) / most))
    return [*values[:-1:every], *values[-1:]]


def mean_band(axes: Sequence[Curve], curves: Sequence[Curve], *, scale: float = 1.0) -> Band:
    """Return the mean over seeds, plus and minus its standard error.

    Args:
        axes: The x values of every seed; a seed that stopped early has the first part of the longest.
        curves: The y values of every seed.
        scale: Factor of the y values.
    """
    table = _table(curves) * scale
    counts = np.isfinite(table).sum(axis=0)
    mean = np.nansum(table, axis=0) / np.maximum(counts, 1)
    squares = np.nansum((table - mean) ** 2, axis=0) / np.maximum(counts - 1, 1)
    error = np.sqrt(squares / np.maximum(counts, 1))
    return _band(axes, counts, mean, mean - error, mean + error)


def range_band(axes: Sequence[Curve], curves: Sequence[Curve], *, logarithmic: bool) -> Band:
    """Return the mean over seeds and the range from the lowest to the highest.

    Args:
        axes: The x values of every seed; a seed that stopped early has the first part of the longest.
        curves: The y values of every seed.
        logarithmic: Whether the mean is geometric; what is not positive is then left out.
    """
    table = _table(curves)
    if logarithmic:
        table = np.log(np.where(table > 0, table, np.nan))
    known = np.isfinite(table)
    counts = known.sum(axis=0)
    mean = np.nansum(table, axis=0) / np.maximum(counts, 1)
    low, high = np.min(table, 0, initial=np.inf, where=known), np.max(table, 0, initial=-np.inf, where=known)
    edges = (np.exp(part) if logarithmic else part for part in (mean, low, high))
    return _band(axes, counts, *edges)


def mean_logarithm(curves: Sequence[Curve]) -> list[float | None]:
    """Return the mean over seeds of the common logarithm, None where no seed has a positive value."""
    table = _table(curves)
    logarithms = np.log10(np.where(table > 0, table, np.nan))
    counts = np.isfinite(logarithms).sum(axis=0)
    means = np.nansum(logarithms, axis=0) / np.maximum(counts, 1)
    return [round(float(mean), 2) if count else None for mean, count in zip(means, counts, strict=True)]


def quantiles(curves: Sequence[Curve], shares: Sequence[float]) -> list[list[float | None]]:
    """Return quantiles across curves as curves of their own, None where there is no value.

    Args:
        curves: They share an axis; one that stopped early has the first part of it.
        shares: 0 for the lowest, 0.5 for the median, 1 for the highest.
    """
    table = _table(curves)
    known = np.isfinite(table).any(axis=0)
    found = np.full((len(shares), table.shape[1]), np.nan)
    if known.any():
        found[:, known] = np.nanquantile(table[:, known], shares, axis=0)
    return [[None if math.isnan(value) else float(value) for value in row] for row in found]


def _table(curves: Sequence[Curve]) -> Floats:
    """Return seeds as rows, with not-a-number where a seed has no value."""
    table = np.full((len(curves), max(map(len, curves), default=0)), np.nan)
    for row, curve in enumerate(curves):
        table[row, : len(curve)] = np.array(curve, dtype=np.float64)  # None becomes not-a-number
    return table


def _band(axes: Sequence[Curve], counts: Floats, *curves: Floats) -> Band:
    kept = np.flatnonzero(counts).tolist()
    axis = max(axes, key=len, default=())
    center, low, high = (tuple(float(f"{curve[index]:.5g}") for index in kept) for curve in curves)
    return Band(tuple(float(axis[index] or 0) for index in kept), center, low, high)
