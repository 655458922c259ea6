"""Measure and apply, at several speeds; this file alone chooses which."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

from multirate.kernels import compiled, foreach, fused, reference, rounding, stretches
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
    once,
)
from multirate.kernels.compiled.formulas import Pass as Formulas
from multirate.levels import Tree
from multirate.levels.cells import Cells
from multirate.memory import Memory

_SPECIAL = (compiled, fused, stretches)
"""Kernels that are not right for everything, the fastest first."""
UNLIMITED = (compiled, stretches)
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


def measure_and_apply(
    batch: Batch,
    previous: Mapping[str, Sequence[Tensor]],
    rates: Sequence[Tensor],
    c: Mapping[str, Sequence[Tensor]],
    live: Tensor,
    moved: Sequence[Tensor],
) -> Measured:
    """Measures and applies, for rates that are known before what is measured; in one pass where a kernel can."""
    if batch.kernel is compiled:
        return compiled.measure_and_apply(batch, previous, rates, c, live, moved)
    measured: Measured = batch.kernel.measure(batch, previous)
    batch.kernel.apply(batch, rates, c, live, moved)
    return measured


def formulas(
    batches: list[Batch], tree: Tree, memory: Memory, factor: Tensor, plans: MutableMapping[Any, Any]
) -> Formulas | None:
    """What works out values of single elements in the pass that moves them; ``None`` where no kernel can.

    Args:
        batches: The tensors of the step.
        tree: Levels and their nodes.
        memory: What the optimizer remembers.
        factor: What the displacements of the last step were multiplied by beside their rates, for every cell.
        plans: What kernels remember of the layout of an optimizer's parameters.
    """
    for batch in batches:
        first = batch.parameters[0]
        alike = arithmetic_dtype(first.dtype) == memory.dtype and first.device == memory.device
        if batch.kernel is not compiled or not alike:
            return None
    return Formulas(batches, tree, memory, factor, plans)


__all__ = [
    "ANCHOR",
    "AVERAGE",
    "DIRECTION",
    "ITERATE",
    "TRACE",
    "UNLIMITED",
    "Batch",
    "CellRates",
    "Formulas",
    "Looked",
    "Measured",
    "Numbers",
    "Picked",
    "arithmetic_dtype",
    "candidates",
    "choose",
    "formulas",
    "measure_and_apply",
    "once",
    "rounding",
]
