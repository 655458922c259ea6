"""The reference's arithmetic, compiled: one pass over memory to measure, one to move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from multirate.kernels import foreach
from multirate.kernels.batch import Batch, CellRates, Looked, Measured, Numbers, arithmetic_dtype, held, once
from multirate.kernels.compiled import cpu, cuda, programs
from multirate.kernels.compiled.formulas import Formula
from multirate.kernels.compiled.layout import alike
from multirate.kernels.compiled.making import Kernel, made, of_all, on_device
from multirate.kernels.compiled.programs import (
    COEFFICIENT,
    GRADIENT,
    HELD,
    LIVE,
    MOVED,
    PARAMETER,
    PREVIOUS,
    RATE,
    SHARE,
    Program,
)
from multirate.levels.cells import Cells

_known: dict[tuple[Any, ...], Kernel] = {}
"""Kernels made so far: what one batch had to be compiled for serves all like it."""
_HOST_TYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_TYPES = (*_HOST_TYPES, torch.float16, torch.bfloat16)


def fits(batch: Batch, like: Tensor) -> bool:
    """Whether a batch of parameters like this one can be worked on here, as far as they have to be alike."""
    return (
        batch.options.get("foreach") is None
        and like.dtype in _TYPES
        and not (batch.elementwise and batch.complex_pairs)
        and not torch.compiler.is_compiling()
        and (
            cuda.available(like.device)
            or (like.device.type == "cpu" and like.dtype in _HOST_TYPES and not batch.rounds and cpu.available())
        )
    )


def takes(batch: Batch, cells: Cells, parameter: Tensor, gradient: Tensor, state: list[Tensor]) -> bool:
    """Whether one parameter with its gradient and state can be worked on here."""
    return (
        type(gradient) is Tensor
        and gradient.dtype == parameter.dtype
        and not gradient.is_neg()
        and alike(cells, batch.elementwise, parameter, [gradient, *state])
    )


def measure(batch: Batch, previous: Mapping[str, Sequence[Tensor]]) -> Measured:
    """See :func:`multirate.kernels.reference.measure`."""
    kernel = _kernel(batch, ("measure",), lambda: programs.measure(batch, previous))
    elements = _elements(batch, kernel.program)
    table = kernel(batch, {**_arrays(batch), **elements}, _coefficients(previous), programs.options_of(batch).numbers)
    return _measured(elements, table)


def apply(
    batch: Batch,
    rates: Sequence[Tensor],
    c: Mapping[str, Sequence[Tensor]],
    live: Tensor,
    moved: Sequence[Tensor],
) -> None:
    """See :func:`multirate.kernels.reference.apply`."""
    device = on_device(batch)
    if not device and not live.numpy():
        return
    _changed(batch)
    if isinstance(rates, Formula):
        rates.work.apply(batch, rates, c, live, moved)
        return
    kernel = _kernel(batch, ("apply",), lambda: programs.apply(batch, c, live=device))
    kernel(
        batch,
        _arrays(batch, rates),
        {**_coefficients(c), MOVED: moved, LIVE: of_all(batch, live)},
        programs.options_of(batch).numbers,
        _by_cell(rates),
        backwards=True,
    )


def measure_and_apply(
    batch: Batch,
    previous: Mapping[str, Sequence[Tensor]],
    rates: Sequence[Tensor],
    c: Mapping[str, Sequence[Tensor]],
    live: Tensor,
    moved: Sequence[Tensor],
) -> Measured:
    """See :func:`multirate.kernels.measure_and_apply`; here it is one pass."""
    device = on_device(batch)
    if not device and not live.numpy():
        return measure(batch, previous)
    _changed(batch)
    kernel = _kernel(batch, ("both",), lambda: programs.measure_and_apply(batch, previous, c, live=device))
    elements = _elements(batch, kernel.program)
    earlier = {f"{PREVIOUS}{name}": values for name, values in previous.items()}
    table = kernel(
        batch,
        {**_arrays(batch, rates), **elements},
        {**earlier, **_coefficients(c), MOVED: moved, LIVE: of_all(batch, live)},
        programs.options_of(batch).numbers,
        _by_cell(rates),
        backwards=True,
    )
    return _measured(elements, table)


def look(batch: Batch, c: Mapping[str, Sequence[Tensor]]) -> Looked:
    """See :func:`multirate.kernels.foreach.look`; here it also finds what holds directions to their length."""
    kernel = _kernel(batch, ("look",), lambda: programs.look(batch, c))
    sums = kernel(batch, _arrays(batch), _coefficients(c), programs.options_of(batch).numbers, whole=True)
    if batch.rule.longest < inf:
        held_to = held(sums[1], _sizes(batch), batch.rule.longest)
        batch.held = Numbers(held_to.nan_to_num(1.0)).of([*range(len(batch.index))])  # NaN: the step will be skipped
    return Looked(sums[0])


def advance(
    batch: Batch,
    rates: Sequence[Tensor],
    c: Mapping[str, Sequence[Tensor]],
    live: Tensor,
    shares: Sequence[Tensor],
    rests_at_average: bool,
) -> Measured:
    """See :func:`multirate.kernels.reference.advance`."""
    device = on_device(batch)
    if not device and not live.numpy():
        batch.held = None
        return foreach.advance(batch, rates, c, live, shares, rests_at_average)
    _changed(batch)
    kernel = _kernel(
        batch, ("advance", rests_at_average), lambda: programs.advance(batch, c, rests_at_average, live=device)
    )
    elements = _elements(batch, kernel.program)
    columns = {**_coefficients(c), SHARE: shares, LIVE: of_all(batch, live)}
    if batch.held is not None:
        columns[HELD] = batch.held
    table = kernel(
        batch,
        {**_arrays(batch, rates), **elements},
        columns,
        programs.options_of(batch).numbers,
        _by_cell(rates),
        backwards=True,
    )
    return _measured(elements, table)


def _changed(batch: Batch) -> None:
    """Tells autograd of what is written behind its back: a graph that still needs the old values has to complain."""
    torch.autograd.graph.increment_version(batch.parameters)


def _kernel(batch: Batch, task: tuple[Any, ...], trace: Callable[[], Program]) -> Kernel:
    signature = programs.options_of(batch).signature
    for_what, kernel = batch.layouts.get(task, (None, None))
    if kernel is None or for_what is not signature:
        kernel = once(_known, (on_device(batch), *task, *signature), lambda: made(batch, trace()))
        batch.layouts[task] = signature, kernel
    found: Kernel = kernel
    return found


def _sizes(batch: Batch) -> Tensor:
    """How many elements the tensors of a batch have, at least 1."""
    device = batch.parameters[0].device

    def laid_out() -> Tensor:
        return torch.tensor([max(p.numel(), 1) for p in batch.parameters], device=device)

    return once(batch.plans, ("sizes", device, *batch.index), laid_out)


def _arrays(batch: Batch, rates: Sequence[Tensor] = ()) -> dict[str, Sequence[Tensor]]:
    return {PARAMETER: batch.parameters, GRADIENT: batch.gradients, **batch.state, RATE: rates}


def _coefficients(c: Mapping[str, Sequence[Tensor]]) -> dict[str, Sequence[Tensor]]:
    return {f"{COEFFICIENT}{name}": values for name, values in c.items()}


def _by_cell(rates: Sequence[Tensor]) -> dict[str, Tensor]:
    return {RATE: rates.cells} if isinstance(rates, CellRates) else {}


def _elements(batch: Batch, program: Program) -> dict[str, Sequence[Tensor]]:
    """Room for what is written down for every element, in one piece; each tensor starts at a round address."""
    if not program.elements:
        return {}
    first, sizes = batch.parameters[0], [-(-p.numel() // 4) * 4 for p in batch.parameters]

    def room() -> list[Tensor]:
        whole = torch.empty(sum(sizes), dtype=arithmetic_dtype(first.dtype), device=first.device)
        parts = zip(whole.split(sizes), batch.parameters, strict=True)
        return [part[: p.numel()].view(p.shape) for part, p in parts]

    return {f"element{k}": room() for k in range(len(program.elements))}


def _measured(elements: Mapping[str, Sequence[Tensor]], table: Tensor) -> Measured:
    return Measured([], [list(row) for row in zip(*elements.values(), strict=True)], table)
