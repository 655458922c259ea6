"""Curves of several seeds, drawn together: a centre line and a band around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Curve: TypeAlias = Sequence["float | None"]
Floats: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Band:
    """A centre with a lower and an upper edge over a shared axis, holes left out."""

    x: tuple[float, ...]
    center: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


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
    low, high = np.where(known, table, np.inf).min(axis=0), np.where(known, table, -np.inf).max(axis=0)
    edges = (np.exp(part) if logarithmic else part for part in (mean, low, high))
    return _band(axes, counts, *edges)


def _table(curves: Sequence[Curve]) -> Floats:
    """Return seeds as rows, with not-a-number where a seed has no value."""
    table = np.full((len(curves), max(map(len, curves), default=0)), np.nan)
    for row, curve in enumerate(curves):
        table[row, : len(curve)] = [np.nan if value is None else value for value in curve]
    return table


def _band(axes: Sequence[Curve], counts: Floats, *curves: Floats) -> Band:
    kept = np.flatnonzero(counts).tolist()
    axis = max(axes, key=len, default=())
    center, low, high = (tuple(float(f"{curve[index]:.6g}") for index in kept) for curve in curves)
    return Band(tuple(float(axis[index] or 0) for index in kept), center, low, high)
