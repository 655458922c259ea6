"""Programs on a CPU: compiled by Numba, a thread a core, in one pass over memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multirate.kernels.batch import Batch, once, vector
from multirate.kernels.compiled.layout import runs
from multirate.kernels.compiled.numba_compiler import compiled
from multirate.kernels.compiled.numba_source import source
from multirate.kernels.compiled.programs import Program
from multirate.kernels.compiled.threads import together

_CHUNK = 1 << 16
"""Elements that a thread takes at a time; what is summed in which order does not depend on which thread takes what."""
_WORTH_A_THREAD = 1 << 16
_TYPES = {torch.float32: "float32", torch.float64: "float64", torch.int8: "int8"}


_address = torch.Tensor.data_ptr


@cache
def available() -> bool:
    """Whether Numba is there and works with what else is installed."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


class Kernel:
    """A program compiled for one precision.

    Args:
        program: What is done to an element.
        dtype: Precision of the arithmetic.
        stored: Type of elementwise tensors by name, where it is another one.
    """

    def __init__(self, program: Program, dtype: torch.dtype, stored: Mapping[str, torch.dtype]) -> None:
        self.program = program
        names = [*program.arrays, *(f"element{k}" for k in range(len(program.elements)))]
        self.arrays = {name: _TYPES[stored.get(name, dtype)] for name in names}
        self._calls: tuple[Mapping[str, float], np.ndarray[Any, Any]] = {}, np.empty(0)
        self._function = compiled(source(program, self.arrays), _TYPES[dtype])

    def __call__(
        self,
        batch: Batch,
        arrays: Mapping[str, Sequence[Tensor]],
        columns: Mapping[str, Sequence[Tensor]],
        numbers: Mapping[str, float],
        cells: Mapping[str, Tensor] | None = None,
        whole: bool = False,
        backwards: bool = False,
    ) -> Tensor:
        """Runs the program on a batch.

        Args:
            batch: The tensors.
            arrays: Elementwise tensors by name, one for each tensor of the batch.
            columns: Numbers of each tensor by name.
            numbers: Values of options by name.
            cells: Numbers of each cell of the optimizer by name.
            whole: Sum over whole tensors, in the order of the batch, and not over cells.
            backwards: Begin where the last pass ended, which is still in the cache.

        Returns:
            The sums, ``(sums, cells of the optimizer)`` or ``(sums, tensors)``, in float64.
        """
        plan = _plan(batch, whole)
        addresses = np.empty((len(batch.index), len(self.arrays)), dtype=np.int64)
        for k, name in enumerate(self.arrays):
            addresses[:, k] = _addresses(batch, name, arrays[name])
        table = np.empty((len(batch.index), len(self.program.columns)))
        for k, name in enumerate(self.program.columns):
            table[:, k] = vector(columns[name], batch.plans).numpy()
        sums = np.zeros((len(self.program.sums), plan.cells))
        partial = np.zeros((len(plan.items), len(self.program.sums)))
        # In this order the compiled function looks for them, see numba_source.
        used = (
            addresses,
            plan.layout,
            plan.items,
            table,
            _given(self.program.cells, cells or {}, plan.cells),
            self._call_values(numbers),
            partial,
            sums,
        )
        data = np.zeros(14, dtype=np.int64)
        data[: len(used)] = [array.ctypes.data for array in used]
        data[8:13] = len(batch.index), len(plan.items), plan.cells, backwards, data[13:].ctypes.data
        threads = max(1, min(torch.get_num_threads(), plan.elements // _WORTH_A_THREAD, len(plan.items)))
        together(self._function, data.ctypes.data, threads)
        for k, row in enumerate(sums):
            row += np.bincount(plan.cell_of_item, partial[:, k], plan.cells)
        return torch.from_numpy(sums)

    def _call_values(self, numbers: Mapping[str, float]) -> np.ndarray[Any, Any]:
        """Numbers of the whole call, with a 0 behind them; options seldom change from step to step."""
        known, found = self._calls
        if not len(found) or numbers != known:
            found = np.array([*self.program.call_values(numbers), 0.0])
            self._calls = numbers, found
        return found


def _given(names: Sequence[str], cells: Mapping[str, Tensor], count: int) -> np.ndarray[Any, Any]:
    """Numbers of every cell, ``(names, cells)``."""
    found = np.empty((len(names), count))
    for k, name in enumerate(names):
        found[k] = cells[name].numpy()
    return found


def _addresses(batch: Batch, name: str, tensors: Sequence[Tensor]) -> np.ndarray[Any, Any]:
    """Where tensors lie; found once a step for those of the batch itself."""
    if name not in batch.addresses or batch.addresses[name][0] is not tensors:
        found = np.fromiter(map(_address, tensors), np.int64, len(tensors))
        batch.addresses[name] = tensors, found
    addresses: np.ndarray[Any, Any] = batch.addresses[name][1]
    return addresses


@dataclass
class _Plan:
    """How the work on a batch is cut into items.

    Attributes:
        layout: For each tensor the sizes B, C, D of its runs and the first of its cells.
        items: For each item its tensor, its place a, a range of c and, in each run, a range of elements.
        cell_of_item: The first cell of each item.
        cells: Number of sums of each kind.
        elements: Number of elements.
    """

    layout: np.ndarray[Any, Any]
    items: np.ndarray[Any, Any]
    cell_of_item: np.ndarray[Any, Any]
    cells: int
    elements: int


def _plan(batch: Batch, whole: bool) -> _Plan:
    if whole not in batch.layouts:
        batch.layouts[whole] = once(batch.plans, ("items", whole, *batch.index), lambda: _planned(batch, whole))
    plan: _Plan = batch.layouts[whole]
    return plan


def _planned(batch: Batch, whole: bool) -> _Plan:
    layout, items = [], []
    for t, (cells, parameter) in enumerate(zip(batch.cells, batch.parameters, strict=True)):
        elements = parameter.numel()
        A, B, C, D = (1, 1, 1, elements) if whole else runs(cells)
        layout.append((B, C, D, t if whole else batch.starts[t]))
        if whole or cells.whole:
            cuts = [*range(0, elements, _CHUNK), elements]
            items += [(t, 0, 0, 1, low, high) for low, high in pairwise(cuts)]
        elif elements:
            step = max(1, _CHUNK // (B * D))
            cuts = [*range(0, C, step), C]
            for a in range(A):
                items += [(t, a, low, high, 0, D) for low, high in pairwise(cuts)]
    where = np.array(layout, dtype=np.int64)
    table = np.array(items, dtype=np.int64).reshape(-1, 6)
    first = where[table[:, 0], 3] + table[:, 1] * where[table[:, 0], 1] + table[:, 2]
    cells_in_all = len(batch.index) if whole else batch.cells_in_all
    return _Plan(where, table, first, cells_in_all, sum(parameter.numel() for parameter in batch.parameters))
