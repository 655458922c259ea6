"""Programs on a CPU: compiled by Numba, a thread a core, in one pass over memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multirate.kernels.batch import Batch, once, vector
from multirate.kernels.compiled.layout import runs
from multirate.kernels.compiled.numba_source import source
from multirate.kernels.compiled.programs import Program
from multirate.kernels.compiled.threads import together
from multirate.numba_compiler import available, compiled

__all__ = ["Kernel", "available"]

_CHUNK = 1 << 16
"""Elements that a thread takes at a time; what is summed in which order does not depend on which thread takes what."""
_WORTH_A_THREAD = 1 << 16
_TYPES = {torch.float32: "float32", torch.float64: "float64", torch.int8: "int8"}


_address = torch.Tensor.data_ptr


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
            numbers: Values of options by name, the same mapping as long as none has changed.
            cells: Numbers of each cell of the optimizer by name.
            whole: Sum over whole tensors, in the order of the batch, and not over cells.
            backwards: Begin where the last pass ended, which is still in the cache.

        Returns:
            The sums, ``(sums, cells of the optimizer)`` or ``(sums, tensors)``, in float64.
        """
        call = once(batch.layouts, (self, whole), lambda: _Call(self, batch, _plan(batch, whole)))
        for k, name in enumerate(self.arrays):
            call.addresses[:, k] = _addresses(batch, name, arrays[name])
        for k, name in enumerate(self.program.columns):
            call.table[:, k] = vector(columns[name], batch.plans).numpy()
        for k, name in enumerate(self.program.cells):
            assert cells is not None
            call.given[k] = cells[name].numpy()
        call.put_in(self.program, numbers)
        return torch.from_numpy(call.made(self._function, backwards))


class _Call:
    """What a kernel is called with for one batch, laid out once; what changes from step to step is put in its place.

    Attributes:
        addresses: Where the elementwise tensors lie, ``(tensors, arrays)``.
        table: Numbers of every tensor, ``(tensors, columns)``.
        given: Numbers of every cell, ``(cell inputs, cells)``.
    """

    def __init__(self, kernel: Kernel, batch: Batch, plan: _Plan) -> None:
        program, tensors = kernel.program, len(batch.index)
        self.addresses = np.empty((tensors, len(kernel.arrays)), dtype=np.int64)
        self.table = np.empty((tensors, len(program.columns)))
        self.given = _scratch(batch, "given", len(program.cells), plan.cells)
        self._calls = np.zeros(len(program.calls) + 1)
        self._partial = np.empty((len(plan.items), len(program.sums)))
        self._sums = _scratch(batch, "sums", len(program.sums), plan.cells)
        self._numbers: Mapping[str, float] | None = None
        self._plan = plan
        # In this order the compiled function looks for them, see numba_source.
        used = (
            self.addresses,
            plan.layout,
            plan.items,
            self.table,
            self.given,
            self._calls,
            self._partial,
            self._sums,
        )
        self._data = np.zeros(14, dtype=np.int64)
        self._data[: len(used)] = [array.ctypes.data for array in used]
        self._data[8:11] = tensors, len(plan.items), plan.cells
        self._data[12] = self._data[13:].ctypes.data
        self._where: int = self._data.ctypes.data

    def put_in(self, program: Program, numbers: Mapping[str, float]) -> None:
        """Puts in numbers of the whole call, with a 0 behind them; options seldom change from step to step."""
        if numbers is not self._numbers:
            self._calls[:-1] = program.call_values(numbers)
            self._numbers = numbers

    def made(self, function: int, backwards: bool) -> np.ndarray[Any, Any]:
        """Makes the call; returns the sums."""
        plan = self._plan
        self._sums.fill(0.0)
        self._partial.fill(0.0)
        self._data[11], self._data[13] = backwards, 0
        threads = max(1, min(torch.get_num_threads(), plan.elements // _WORTH_A_THREAD, len(plan.items)))
        together(function, self._where, threads)
        sums = self._sums.copy()
        if plan.apart:
            sums[:, plan.cell_of_item] += self._partial.T
        else:
            for k, row in enumerate(sums):
                row += np.bincount(plan.cell_of_item, self._partial[:, k], plan.cells)
        return sums


def _scratch(batch: Batch, what: str, rows: int, cells: int) -> np.ndarray[Any, Any]:
    """Room for numbers of all cells, one for all batches of an optimizer: they are worked on one after the other."""
    return once(batch.plans, ("scratch", what, rows, cells), lambda: np.empty((rows, cells)))


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
        apart: Whether no two items have the same first cell.
        cells: Number of sums of each kind.
        elements: Number of elements.
    """

    layout: np.ndarray[Any, Any]
    items: np.ndarray[Any, Any]
    cell_of_item: np.ndarray[Any, Any]
    apart: bool
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
    apart = len(np.unique(first)) == len(first)
    return _Plan(where, table, first, apart, cells_in_all, sum(parameter.numel() for parameter in batch.parameters))
