"""Measure and apply, at several speeds; this file alone chooses which."""

from __future__ import annotations

from types import ModuleType

from multirate.kernels import foreach, fused, reference
from multirate.kernels.batch import (
    ANCHOR,
    AVERAGE,
    DIRECTION,
    ITERATE,
    TRACE,
    Batch,
    Measured,
    arithmetic_dtype,
    square_norm,
)


def choose(batch: Batch) -> ModuleType:
    """The kernel of a batch: ``reference`` when its group says ``foreach=False``, else the fastest that is right."""
    if batch.options.get("foreach") is False:
        return reference
    return fused if fused.fits(batch) else foreach


__all__ = [
    "ANCHOR",
    "AVERAGE",
    "DIRECTION",
    "ITERATE",
    "TRACE",
    "Batch",
    "Measured",
    "arithmetic_dtype",
    "choose",
    "square_norm",
]
