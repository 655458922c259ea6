"""Programs on a GPU: compiled by Triton, any number of tensors in a few launches, nothing read back to the host.

Where tensors lie is a table on the device, made again only when an address changed. A CUDA graph may capture steps:
take at least one ordinary step before, with the same parameters having gradients, so that everything is compiled and
laid out. Addresses that are the same in the capture are those of the table at hand, which is then kept for good; others
(gradients that the capture makes itself) are written down by the graph. Options such as ``weight_decay`` are those of
the time of the capture, learning rates too unless they are tensors.
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from multirate.kernels.batch import Batch, vector
from multirate.kernels.compiled.layout import runs
from multirate.kernels.compiled.programs import Program
from multirate.kernels.compiled.triton_source import GATHER, arguments, source

_DEVICES = ("cuda",)
"""Where it runs; tests add the CPU, where Triton can be interpreted."""
_TILE = 1024
_CHUNK = 1 << 14
"""Elements of a cell, or of a few cells side by side, that one program sums; more are shared among programs."""
_LANES = 128
_ALIGNMENT = 16
"""Elements, and bytes of an address, that have to divide everything for wide loads."""


def available(device: torch.device) -> bool:
    """Whether Triton is there and works on a device."""
    return device.type in _DEVICES and _works(device)


@cache
def _works(device: torch.device) -> bool:
    """Tries it: Triton may be too old, or without a compiler for what it launches kernels with."""
    try:
        import triton.language as tl

        if not (hasattr(tl, "div_rn") and hasattr(tl, "sqrt_rn")):
            return False
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if interpreted or device.type == "cpu":  # the interpreter cannot go where addresses on a GPU lead
            return interpreted and device.type == "cpu"
        if torch.cuda.get_device_capability(device) < (8, 0):  # none of bfloat16 before
            return False
        with torch.cuda.device(device):
            row = torch.zeros(4, dtype=torch.int64, device=device)
            _launch(GATHER, (1, 1), [torch.zeros(1, dtype=torch.float64, device=device), row], SUMS=1, LANES=_LANES)
    except Exception:  # whatever is missing, the other kernels do without it
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
        self.arrays = {name: stored.get(name, dtype) for name in names}
        self._dtype = dtype
        self._arguments = arguments(program, self.arrays)
        self._source = source(program, self.arrays, dtype)

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
            backwards: Of no use here.

        Returns:
            The sums, ``(sums, cells of the optimizer)`` or ``(sums, tensors)``, in float64.
        """
        device, sums = batch.parameters[0].device, len(self.program.sums)
        plan = _plan(batch, whole)
        out = torch.zeros(plan.places if sums else 0, sums, dtype=torch.float64, device=device)
        given: dict[str, Tensor] = {"out": out}
        aligned, given["table"] = self._table(batch, arrays)
        for i, name in enumerate(self.program.cells):
            assert cells is not None
            given[f"cells{i}"] = cells[name].contiguous()
        if self.program.columns:
            values = [vector(columns[name], batch.plans) for name in self.program.columns]
            given["columns"] = torch.stack([v.to(self._dtype) for v in values], dim=1)
        if self.program.calls:
            values_of_calls = tuple(self.program.call_values(numbers))
            given["calls"] = _remembered(batch, (self, device, batch.start), values_of_calls, self._dtype)
        if "seeds" in self._arguments:
            assert batch.seeds is not None
            given["seeds"] = vector(batch.seeds, batch.plans)
        with _on(device):
            for part in plan.parts:
                given["items"] = part.items
                _launch(
                    self._source,
                    (len(part.items),),
                    [given[name] for name in self._arguments],
                    COLUMNS=part.columns,
                    ROWS=part.rows,
                    COLS=part.cols,
                    ALIGNED=part.aligned and aligned,
                )
            if sums and len(plan.shared):
                _launch(GATHER, (len(plan.shared), sums), [out, plan.shared], SUMS=sums, LANES=_LANES)
        return out[: plan.cells].t()

    def _table(self, batch: Batch, arrays: Mapping[str, Sequence[Tensor]]) -> tuple[bool, Tensor]:
        """Where everything lies, ``(tensors, arrays)``, and whether wide loads may be used."""
        found = [_addresses(batch, name, arrays[name]) for name in self.arrays]
        addresses = tuple(address for row in zip(*found, strict=True) for address in row)
        key = ("table", *self.arrays, *batch.index)
        return all(a % _ALIGNMENT == 0 for a in addresses), _remembered(batch, key, addresses, torch.int64)


def _addresses(batch: Batch, name: str, tensors: Sequence[Tensor]) -> list[int]:
    """Where tensors lie; found once a step for those of the batch itself."""
    if name not in batch.addresses or batch.addresses[name][0] is not tensors:
        batch.addresses[name] = tensors, [tensor.data_ptr() for tensor in tensors]
    addresses: list[int] = batch.addresses[name][1]
    return addresses


# -- what stays on the device ----------------------------------------------------------------------------------------


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _remembered(batch: Batch, key: Hashable, values: tuple[Any, ...], dtype: torch.dtype) -> Tensor:
    """Numbers on the device: those of the last time where they are the same.

    They are never written over, so that what a graph has captured stays what it was.
    """
    device = batch.parameters[0].device
    known, kept = batch.plans.get(key, ((), None))
    if kept is not None and known == values:
        if _capturing(device):
            batch.plans.setdefault("captured", []).append(kept)
        return kept  # type: ignore[no-any-return]
    fresh = _placed(values, dtype, device)
    if not _capturing(device):
        batch.plans[key] = values, fresh
    return fresh


def _placed(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor; the host does not wait for the copy, and a graph does not depend on what the host has."""
    host = torch.tensor(values, dtype=dtype)
    if _capturing(device):
        return written(host.flatten().tolist(), dtype, device).view(host.shape)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and len(values) else host.to(device)


def written(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor made by launches that have them as arguments: a graph may capture that."""
    fresh = torch.zeros(len(values), dtype=dtype, device=device)
    if len(values):
        torch._foreach_add_(list(fresh.unbind()), list(values))
    return fresh


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the device that is current."""
    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)


# -- layout ----------------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """Items with tiles of one shape: one launch."""

    columns: bool
    rows: int
    cols: int
    aligned: bool
    items: Tensor


@dataclass
class _Plan:
    """How the work on a batch is cut into items.

    Attributes:
        parts: The launches.
        cells: Number of sums of each kind.
        places: The same with room for shares of cells that several items sum.
        shared: For each such cell: its number, the place of the first share, how many there are and how far apart.
    """

    parts: list[_Part]
    cells: int
    places: int
    shared: Tensor


def _plan(batch: Batch, whole: bool) -> _Plan:
    key, device = ("items", whole, *batch.index), batch.parameters[0].device
    if key in batch.plans:
        plan: _Plan = batch.plans[key]
    else:
        plan = _planned(batch, whole, device)
    if _capturing(device):
        batch.plans.setdefault("captured", []).append(plan)
    else:
        batch.plans[key] = plan
    return plan


def _tile(C: int, D: int) -> tuple[bool, int, int]:
    """Shape of the tiles for runs of cells: few shapes, since each is a launch."""
    if D == 1 and C > 1:
        return True, 16, 64
    if D > 512:
        return False, 1, _TILE
    return (False, 8, 128) if D > 32 else (False, 64, 16)


def _planned(batch: Batch, whole: bool, device: torch.device) -> _Plan:
    items: dict[tuple[bool, int, int, bool], list[tuple[int, ...]]] = {}
    shared: list[tuple[int, int, int, int]] = []
    cells = places = len(batch.index) if whole else batch.cells_in_all
    for t, (own, parameter) in enumerate(zip(batch.cells, batch.parameters, strict=True)):
        if not parameter.numel():
            continue
        A, B, C, D = (1, 1, 1, parameter.numel()) if whole else runs(own)
        start = t if whole else batch.starts[t]
        columns, rows, cols = shape = _tile(C, D)
        side = cols if columns else rows
        parts = items.setdefault((*shape, (C if columns else D) % _ALIGNMENT == 0), [])
        step_d = D if B > 1 else max(cols, _CHUNK // side) if not columns else 1
        step_b = max(rows if columns else 1, _CHUNK // (side * D))
        ranges = [
            (b, min(b + step_b, B), d, min(d + step_d, D)) for b, d in product(range(0, B, step_b), range(0, D, step_d))
        ]
        for a, c0 in product(range(A), range(0, C, side)):
            cell, alone = start + a * C, len(ranges) == 1
            if not alone:
                shared += [(cell + c, places + c - c0, len(ranges), side) for c in range(c0, min(c0 + side, C))]
            for b0, b1, d0, d1 in ranges:
                place = cell + c0 if alone else places
                parts.append((t, a * B * C * D, C, D, b0, b1, c0, d0, d1, cell, place))
                places += 0 if alone else side
    return _Plan(
        [_Part(*shape, _placed(found, torch.int64, device)) for shape, found in items.items()],
        cells,
        places,
        _placed(shared, torch.int64, device),
    )


# -- Triton ----------------------------------------------------------------------------------------------------------


def _launch(text: str, grid: tuple[int, ...], tensors: Sequence[Tensor], **sizes: int) -> None:
    """Runs a kernel; products and sums are rounded one by one, as the reference's are."""
    _compiled(text)[grid](*tensors, **sizes, num_warps=4, enable_fp_fusion=False)


@cache
def _compiled(text: str) -> Any:
    """A kernel from its source, which Triton looks for where tracebacks do."""
    import triton
    import triton.language as tl

    scope: dict[str, Any] = {"tl": tl, "__name__": __name__}
    name = f"<multirate kernel {len(linecache.cache)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec", dont_inherit=True), scope)
    return triton.jit(scope["kernel"])
