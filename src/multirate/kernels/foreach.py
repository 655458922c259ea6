"""Many tensors at once: the same formulas over lists, in few passes over memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import torch
from torch import Tensor

from multirate.kernels.batch import (
    ANCHOR,
    AVERAGE,
    DIRECTION,
    ITERATE,
    LARGEST_DECAY,
    TRACE,
    Batch,
    Measured,
    arithmetic_dtype,
    held,
)
from multirate.kernels.reference import look
from multirate.kernels.rounding import close, opened
from multirate.levels.cells import Cells
from multirate.tensorlist import TensorList

__all__ = ["advance", "apply", "look", "measure"]

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


def _opened(batch: Batch) -> dict[str, TensorList]:
    """State to calculate with."""
    each = [opened(batch, i) for i in range(len(batch.index))] if batch.rounds else []
    names = batch.state.items()
    return {name: TensorList([own[name] for own in each] if batch.rounds else tensors) for name, tensors in names}


def _close(batch: Batch, state: Mapping[str, TensorList], live: Tensor) -> None:
    if batch.rounds:
        for name, values in state.items():
            for i, value in enumerate(values):
                close(batch, i, name, value, live)


def _zeroed(gradient: Tensor, live: Tensor, mask: Tensor) -> Tensor:
    """The gradient, or zeros on a skipped step.

    A bitwise ``and`` with all ones or none: multiplication would leave NaN, and ``where`` with a 0-d condition costs
    four times as much on a CPU.
    """
    if gradient.dtype in _INTEGER:
        return torch.bitwise_and(gradient.view(mask.dtype), mask).view(gradient.dtype)
    return torch.where(live > 0, gradient, 0.0)


def _live_gradients(batch: Batch, live: Tensor) -> TensorList:
    gradients = _gradients(batch)
    mask = -(live > 0).to(_INTEGER.get(gradients[0].dtype, torch.int32))
    return TensorList([_zeroed(g, live, mask) for g in gradients])


def _inner(cells: Cells, first: Tensor, second: Tensor) -> Tensor:
    """Sum of the products over each cell, ``(cells,)``."""
    if cells.whole and first.is_contiguous() and second.is_contiguous():
        return torch.dot(first.flatten(), second.flatten()).reshape(1)
    return cells.reduce(first * second)


def measure(batch: Batch, previous: Mapping[str, Sequence[Tensor]]) -> Measured:
    """See :func:`multirate.kernels.reference.measure`."""
    gradients = _gradients(batch)
    source = batch.reference_state
    if source is None:
        state = _opened(batch)
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


def apply(
    batch: Batch, rates: Sequence[Tensor], c: Mapping[str, Sequence[Tensor]], live: Tensor, moved: Sequence[Tensor]
) -> None:
    """See :func:`multirate.kernels.reference.apply`."""
    parameters = TensorList(batch.parameters)
    gradients = _live_gradients(batch, live)
    state = _opened(batch)
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
    _close(batch, state, live)


def advance(
    batch: Batch,
    rates: Sequence[Tensor],
    c: Mapping[str, Sequence[Tensor]],
    live: Tensor,
    shares: Sequence[Tensor],
    rests_at_average: bool,
) -> Measured:
    """See :func:`multirate.kernels.reference.advance`."""
    beta = batch.rule.interpolation(batch.options)
    state = _opened(batch)
    own = {name: TensorList(values) for name, values in c.items()}
    iterates, rate = state[ITERATE], TensorList(rates)
    gradients = _live_gradients(batch, live)
    points = TensorList([p.to(z.dtype) for p, z in zip(batch.parameters, iterates, strict=True)])
    directions = batch.rule.update(gradients, state, own, live, batch.options)
    behind = state.get(AVERAGE, points) - iterates
    if AVERAGE not in state and batch.at_training_point:
        behind.mul_(1.0 / batch.interpolation)
    measured, scale = _measured(batch, gradients, directions, behind, state[ANCHOR] - points, c.get("scale"))
    averages = behind.add_(iterates)
    if batch.decoupled_decay:
        decay = points.mul(batch.decoupled_decay).clamp(-LARGEST_DECAY, LARGEST_DECAY)
        directions = directions.addcmul(directions.abs(), decay)
    iterates.addcmul_(directions, rate if scale is None else rate * TensorList(scale), value=-1.0)
    for i, (parameter, average) in enumerate(zip(batch.parameters, averages, strict=True)):
        average.lerp_(iterates[i], shares[i])
        if AVERAGE in state:
            state[AVERAGE][i].copy_(average)
        target = average if rests_at_average else torch.lerp(iterates[i], average, beta)
        stays = rests_at_average != batch.at_training_point
        parameter.copy_(points[i].lerp(target, live) if stays else target)
    _close(batch, state, live)
    return measured


def _measured(
    batch: Batch,
    gradients: TensorList,
    directions: TensorList,
    behind: TensorList,
    back: TensorList,
    scale: Sequence[Tensor] | None,
) -> tuple[Measured, list[Tensor] | None]:
    """The six sums of averaged iterates, and what multiplies each direction so that none is longer than allowed.

    The scale comes into the sums at their end, where there is little to multiply, and its limit out of them.
    """
    pairs = [(directions, behind), (directions, directions), (behind, behind)]
    of_nodes = [(back, back), (gradients, directions), (gradients, back)]
    measured = Measured([], [])
    scales: list[Tensor] = []
    for i, cells in enumerate(batch.cells):
        products = [first[i] * second[i] for first, second in pairs] if batch.elementwise else []
        sums = [cells.reduce(p) for p in products] or [_inner(cells, first[i], second[i]) for first, second in pairs]
        sums += [_inner(cells, first[i], second[i]) for first, second in of_nodes]
        own = limited(batch, sums[1], directions[i].numel(), None if scale is None else scale[i])
        if own is not None:
            scales.append(own)
            sums, products = scaled(sums, own), scaled(products, own)
        measured.rows.append(torch.stack(sums))
        if batch.elementwise:
            measured.elements.append([p.sum(-1, keepdim=True) if batch.complex_pairs else p for p in products])
    return measured, scales or None


def limited(batch: Batch, squares: Tensor, elements: int, scale: Tensor | None) -> Tensor | None:
    """What multiplies the direction of a tensor so that it is no longer than allowed; ``None`` for nothing.

    Args:
        batch: Its batch.
        squares: Squares of the direction without its scale, summed over each cell.
        elements: Of the tensor.
        scale: The rule's own.
    """
    longest = batch.rule.longest
    if longest == inf:
        return scale
    own = squares.new_ones(()) if scale is None else scale
    return held(squares.sum() * own * own, max(elements, 1), longest) * own


def scaled(values: list[Tensor], scale: Tensor) -> list[Tensor]:
    """Sums or products with the direction scaled: it is in the first and the fifth once, in the second twice."""
    powers = (scale, scale * scale, None, None, scale, None)
    return [v if power is None else v * power for v, power in zip(values, powers, strict=False)]
