"""The reference's arithmetic, compiled: one pass over memory to measure, one to move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from multirate.kernels import foreach
from multirate.kernels.batch import Batch, CellRates, Looked, Measured, Numbers, arithmetic_dtype, held
from multirate.kernels.compiled import cpu, programs
from multirate.kernels.compiled.formulas import Formula
from multirate.kernels.compiled.layout import alike
from multirate.kernels.compiled.programs import (
    COEFFICIENT,
    GRADIENT,
    HELD,
    MOVED,
    PARAMETER,
    PREVIOUS,
    RATE,
    SHARE,
    Program,
)
from multirate.levels.cells import Cells

_known: dict[tuple[Any, ...], cpu.Kernel] = {}
"""Kernels made so far: what one batch had to be compiled for serves all like it."""


def fits(batch: Batch, like: Tensor) -> bool:
    """Whether a batch of parameters like this one can be worked on here, as far as they have to be alike."""
    return (
        batch.options.get("foreach") is None
        and like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128)
        and not (batch.elementwise and batch.complex_pairs)
        and not torch.compiler.is_compiling()
        and cpu.available()
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
    table = kernel(batch, {**_arrays(batch), **elements}, _coefficients(previous), programs.option_numbers(batch))
    return _measured(elements, table)


def apply(
    batch: Batch,
    rates: Sequence[Tensor],
    c: Mapping[str, Sequence[Tensor]],
    live: Tensor,
    moved: Sequence[Tensor],
) -> None:
    """See :func:`multirate.kernels.reference.apply`."""
    if not live.numpy():
        return
    if isinstance(rates, Formula):
        rates.work.apply(batch, rates, c, moved)
        return
    kernel = _kernel(batch, ("apply",), lambda: programs.apply(batch, c, live=False))
    kernel(
        batch,
        _arrays(batch, rates),
        {**_coefficients(c), MOVED: moved},
        programs.option_numbers(batch),
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
    """See :func:`multirate.kernels.reference.measure_and_apply`; here it is one pass."""
    if not live.numpy():
        return measure(batch, previous)
    kernel = _kernel(batch, ("both",), lambda: programs.measure_and_apply(batch, previous, c))
    elements = _elements(batch, kernel.program)
    earlier = {f"{PREVIOUS}{name}": values for name, values in previous.items()}
    table = kernel(
        batch,
        {**_arrays(batch, rates), **elements},
        {**earlier, **_coefficients(c), MOVED: moved},
        programs.option_numbers(batch),
        _by_cell(rates),
        backwards=True,
    )
    return _measured(elements, table)


def look(batch: Batch, c: Mapping[str, Sequence[Tensor]]) -> Looked:
    """See :func:`multirate.kernels.foreach.look`; here it also finds what holds directions to their length."""
    kernel = _kernel(batch, ("look",), lambda: programs.look(batch, c))
    sums = kernel(batch, _arrays(batch), _coefficients(c), programs.option_numbers(batch), whole=True)
    if batch.rule.longest < inf:
        elements = torch.tensor([max(p.numel(), 1) for p in batch.parameters])
        batch.held = Numbers(held(sums[1], elements, batch.rule.longest)).of([*range(len(elements))])
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
    if not live.numpy():
        batch.held = None
        return foreach.advance(batch, rates, c, live, shares, rests_at_average)
    kernel = _kernel(
        batch, ("advance", rests_at_average), lambda: programs.advance(batch, c, rests_at_average, live=False)
    )
    elements = _elements(batch, kernel.program)
    columns = {**_coefficients(c), SHARE: shares, **({} if batch.held is None else {HELD: batch.held})}
    table = kernel(
        batch,
        {**_arrays(batch, rates), **elements},
        columns,
        programs.option_numbers(batch),
        _by_cell(rates),
        backwards=True,
    )
    return _measured(elements, table)


def _kernel(batch: Batch, task: tuple[Any, ...], trace: Callable[[], Program]) -> cpu.Kernel:
    key = (*task, *programs.signature(batch))
    if key not in _known:
        stored = {name: tensors[0].dtype for name, tensors in batch.state.items()}
        _known[key] = cpu.Kernel(trace(), arithmetic_dtype(batch.parameters[0].dtype), stored)
    return _known[key]


def _arrays(batch: Batch, rates: Sequence[Tensor] = ()) -> dict[str, Sequence[Tensor]]:
    return {PARAMETER: batch.parameters, GRADIENT: batch.gradients, **batch.state, RATE: rates}


def _coefficients(c: Mapping[str, Sequence[Tensor]]) -> dict[str, Sequence[Tensor]]:
    return {f"{COEFFICIENT}{name}": values for name, values in c.items()}


def _by_cell(rates: Sequence[Tensor]) -> dict[str, Tensor]:
    return {RATE: rates.cells} if isinstance(rates, CellRates) else {}


def _elements(batch: Batch, program: Program) -> dict[str, Sequence[Tensor]]:
    """Room for what is written down for every element."""
    return {f"element{k}": [torch.empty_like(p) for p in batch.parameters] for k in range(len(program.elements))}


def _measured(elements: Mapping[str, Sequence[Tensor]], table: Tensor) -> Measured:
    return Measured([], [list(row) for row in zip(*elements.values(), strict=True)], table)
