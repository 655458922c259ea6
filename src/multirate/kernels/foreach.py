"""Many tensors at once: the same formulas over lists, in few passes over memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from multirate.kernels.batch import DIRECTION, TRACE, Batch, Measured, arithmetic_dtype
from multirate.levels.cells import Cells
from multirate.tensorlist import TensorList

_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}


def _gradients(batch: Batch) -> TensorList:
    dtype = arithmetic_dtype(batch.parameters[0].dtype)
    gradients = TensorList([g.to(dtype) for g in batch.gradients])
    if batch.options["maximize"]:
        gradients = gradients.neg()
    if batch.coupled_decay:
        parameters = [p.to(dtype) for p in batch.parameters]
        gradients = TensorList(torch._foreach_add(gradients.tensors, parameters, alpha=batch.coupled_decay))
    return gradients


def _zeroed(gradient: Tensor, live: Tensor, mask: Tensor) -> Tensor:
    """The gradient, or zeros on a skipped step.

    A bitwise ``and`` with all ones or none: multiplication would leave NaN, and ``where`` with a 0-d condition costs
    four times as much on a CPU.
    """
    if gradient.dtype in _INTEGER:
        return torch.bitwise_and(gradient.view(mask.dtype), mask).view(gradient.dtype)
    return torch.where(live > 0, gradient, 0.0)


def _inner(cells: Cells, first: Tensor, second: Tensor) -> Tensor:
    """Sum of the products over each cell, ``(cells,)``."""
    if cells.whole and first.is_contiguous() and second.is_contiguous():
        return torch.dot(first.flatten(), second.flatten()).reshape(1)
    return cells.reduce(first * second)


def measure(batch: Batch, previous: Mapping[str, list[Tensor]]) -> Measured:
    """See :func:`multirate.kernels.reference.measure`."""
    gradients = _gradients(batch)
    source = batch.reference_state
    if source is None:
        state = {name: TensorList(tensors) for name, tensors in batch.state.items()}
        coefficients = {k: TensorList(c) for k, c in previous.items()}
        directions = batch.rule.rebuild(state, coefficients, batch.options)
    else:
        directions = TensorList([t.to(g.dtype) for t, g in zip(batch.state[source], gradients, strict=True)])
    pairs = [(gradients, directions)]
    if batch.norms:
        pairs += [(gradients, gradients), (directions, directions)]
    measured = Measured([], [])
    if batch.elementwise:
        products = [first * second for first, second in pairs]
        for i, cells in enumerate(batch.cells):
            measured.rows.append(torch.stack([cells.reduce(product[i]) for product in products]))
            measured.elements.append([p[i].sum(-1, keepdim=True) if batch.complex_pairs else p[i] for p in products])
        return measured
    for i, cells in enumerate(batch.cells):
        sums = [_inner(cells, first[i], second[i]) for first, second in pairs]
        measured.rows.append(torch.stack(sums) if len(sums) > 1 else sums[0].unsqueeze(0))
    return measured


def apply(batch: Batch, rates: list[Tensor], c: Mapping[str, list[Tensor]], live: Tensor, moved: list[Tensor]) -> None:
    """See :func:`multirate.kernels.reference.apply`."""
    parameters = TensorList(batch.parameters)
    gradients = _gradients(batch)
    mask = -(live > 0).to(_INTEGER.get(gradients[0].dtype, torch.int32))
    gradients = TensorList([_zeroed(g, live, mask) for g in gradients])
    state = {name: TensorList(tensors) for name, tensors in batch.state.items()}
    own = {name: TensorList(values) for name, values in c.items()}
    rate = TensorList(rates)
    if batch.decoupled_decay:
        parameters.mul_(1.0 - rate * batch.decoupled_decay)
    directions = batch.rule.update(gradients, state, own, live, batch.options)
    nonlinear = batch.rule.displacement(directions, state, own, rate, batch.options)
    scale = own.get("scale") if nonlinear is None else None
    if nonlinear is None:
        parameters.addcmul_(directions, rate if scale is None else rate * scale, value=-1.0)
    else:
        displacements, directions = nonlinear
        parameters.sub_(displacements)
    if batch.horizon > 0:
        shares = TensorList(moved).mul(live)  # the operator breaks the graph of torch.compile
        traces = state[TRACE].mul_(1.0 - shares * (1.0 - batch.horizon))
        traces.addcmul_(directions, shares if scale is None else shares * scale)
    elif DIRECTION in state:
        for kept, direction in zip(state[DIRECTION], directions, strict=True):
            if kept.dtype == direction.dtype:
                kept.lerp_(direction, live.to(kept.dtype))
            else:
                kept.copy_(torch.where(live > 0, direction.to(kept.dtype), kept))
