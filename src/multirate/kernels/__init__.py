"""Measure and apply, at several speeds; this file alone chooses which."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from multirate.kernels import compiled, foreach, fused, reference, rounding
from multirate.kernels.batch import (
    ANCHOR,
    AVERAGE,
    DIRECTION,
    ITERATE,
    TRACE,
    Batch,
    CellRates,
    Looked,
    Measured,
    Numbers,
    Picked,
    arithmetic_dtype,
)
from multirate.levels.cells import Cells

_SPECIAL = (compiled, fused)
"""Kernels that are not right for everything, the fastest first."""
UNLIMITED = (compiled,)
"""Kernels that gain nothing from small batches."""


def candidates(batch: Batch, like: Tensor) -> list[ModuleType]:
    """What may work on parameters like this one: ``reference`` when their group says ``foreach=False``."""
    if batch.options.get("foreach") is False:
        return [reference]
    return [*(kernel for kernel in _SPECIAL if kernel.fits(batch, like)), foreach]


def choose(
    among: list[ModuleType], batch: Batch, cells: Cells, parameter: Tensor, gradient: Tensor, state: list[Tensor]
) -> ModuleType:
    """The first of some kernels that can work on a parameter; the last of them always can."""
    for kernel in among[:-1]:
        if kernel.takes(batch, cells, parameter, gradient, state):
            return kernel
    return among[-1]


__all__ = [
    "ANCHOR",
    "AVERAGE",
    "DIRECTION",
    "ITERATE",
    "TRACE",
    "UNLIMITED",
    "Batch",
    "CellRates",
    "Looked",
    "Measured",
    "Numbers",
    "Picked",
    "arithmetic_dtype",
    "candidates",
    "choose",
    "rounding",
]
