"""The truth: one tensor after the other, each formula as it is printed; every other kernel is compared with it."""

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
    Looked,
    Measured,
    arithmetic_dtype,
    held,
    square_norm,
)
from multirate.kernels.rounding import close, opened


def gradient_of(batch: Batch, parameter: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of what is minimised: the loss (negated when maximising) plus coupled weight decay."""
    gradient = gradient.to(arithmetic_dtype(parameter.dtype))
    if batch.options["maximize"]:
        gradient = -gradient
    if batch.coupled_decay:
        gradient = gradient + batch.coupled_decay * parameter.to(gradient.dtype)
    return gradient


def measure(batch: Batch, previous: Mapping[str, Sequence[Tensor]]) -> Measured:
    """Agreement ``g_t ⊙ d_{t-1}`` of each tensor, summed over its cells (Eqs. 2 and 8).

    Args:
        batch: The tensors.
        previous: Coefficients of the previous update, one value a tensor.
    """
    measured = Measured([], [])
    for i, cells in enumerate(batch.cells):
        gradient = gradient_of(batch, batch.parameters[i], batch.gradients[i])
        state = opened(batch, i)
        source = batch.reference_state
        if source is None:
            direction = batch.rule.rebuild(state, {k: c[i] for k, c in previous.items()}, batch.options)
        else:
            direction = state[source].to(gradient.dtype)
        products = [gradient * direction]
        if batch.norms:
            products += [gradient * gradient, direction * direction]
        measured.rows.append(torch.stack([cells.reduce(product) for product in products]))
        if batch.elementwise:
            measured.elements.append([p.sum(-1, keepdim=True) if batch.complex_pairs else p for p in products])
    return measured


def look(batch: Batch, c: Mapping[str, Sequence[Tensor]]) -> Looked:
    """What is to be known of the gradients before averaged iterates move.

    Args:
        batch: The tensors.
        c: Coefficients of the update to come, one value a tensor.
    """
    return Looked(torch.stack([square_norm(gradient) for gradient in batch.gradients]))


def apply(
    batch: Batch, rates: Sequence[Tensor], c: Mapping[str, Sequence[Tensor]], live: Tensor, moved: Sequence[Tensor]
) -> None:
    """``θ ← θ − rate · scale · d``, after the rule's state has taken the gradient in.

    Args:
        batch: The tensors.
        rates: The applied rate of each tensor, broadcastable, schedule included and 0 on a skipped step.
        c: Coefficients of this update, one value a tensor.
        live: 1, or 0 on a skipped step.
        moved: For each tensor 1 when it moves (its rate's schedule is not 0).
    """
    for i, parameter in enumerate(batch.parameters):
        gradient = torch.where(live > 0, gradient_of(batch, batch.parameters[i], batch.gradients[i]), 0.0)
        state = opened(batch, i)
        own = {name: values[i] for name, values in c.items()}
        if batch.decoupled_decay:
            parameter.mul_(1.0 - rates[i] * batch.decoupled_decay)
        direction = batch.rule.update(gradient, state, own, live, batch.options)
        nonlinear = batch.rule.displacement(direction, state, own, rates[i], batch.options)
        if nonlinear is None:
            scale = own.get("scale")
            parameter.sub_(direction * (rates[i] if scale is None else rates[i] * scale))
        else:
            displacement, direction = nonlinear
            parameter.sub_(displacement)
            scale = None
        if batch.horizon > 0:
            trace = state[TRACE]
            full = direction if scale is None else direction * scale
            trace.copy_(torch.where(live * moved[i] > 0, batch.horizon * trace + full, trace))
        elif DIRECTION in state:
            kept = state[DIRECTION]
            kept.copy_(torch.where(live > 0, direction.to(kept.dtype), kept))
        for name, value in state.items():
            close(batch, i, name, value, live)


def advance(
    batch: Batch,
    rates: Sequence[Tensor],
    c: Mapping[str, Sequence[Tensor]],
    live: Tensor,
    shares: Sequence[Tensor],
    rests_at_average: bool,
) -> Measured:
    """Moves averaged iterates: ``z ← z − rate · (d + |d| ⊙ clamp(λ y, ±½))``, ``x ← x + share · (z − x)``.

    Measures on the way.

    Args:
        batch: The tensors; each parameter holds the point ``y = β x + (1 − β) z`` where its gradient was taken, or the
            average ``x``.
        rates: The applied rate of each tensor, broadcastable, schedule included and 0 on a skipped step.
        c: Coefficients of this update, one value a tensor.
        live: 1, or 0 on a skipped step.
        shares: Weight of the new iterate in the average of each tensor, 0 on a skipped step.
        rests_at_average: Whether to leave ``x`` in the parameters, and not ``y``.

    Returns:
        For each tensor the sums over cells of ``d ⊙ (x − z)``, ``d²``, ``(x − z)²``, ``(y − y₀)²``, ``g ⊙ d`` and
        ``g ⊙ (y₀ − y)``, before the move; of elements the first three.

    Reference:
        Defazio et al.: The road less scheduled, arXiv 2405.15682, Eqs. 3 to 5.
    """
    beta = batch.rule.interpolation(batch.options)
    measured = Measured([], [])
    for i, parameter in enumerate(batch.parameters):
        gradient = torch.where(live > 0, gradient_of(batch, batch.parameters[i], batch.gradients[i]), 0.0)
        state = opened(batch, i)
        own = {name: values[i] for name, values in c.items()}
        iterate = state[ITERATE]
        point = parameter.to(iterate.dtype)
        if AVERAGE in state:
            behind = state[AVERAGE] - iterate
        elif batch.at_training_point:
            behind = (point - iterate) / batch.interpolation
        else:
            behind = point - iterate
        direction = batch.rule.update(gradient, state, own, live, batch.options)
        if "scale" in own:
            direction = direction * own["scale"]
        if batch.held is not None:
            direction = direction * batch.held[i]
        elif batch.rule.longest < inf:
            direction = direction * held((direction * direction).sum(), max(direction.numel(), 1), batch.rule.longest)
        average, back = iterate + behind, state[ANCHOR] - point
        products = [direction * behind, direction * direction, behind * behind]
        of_nodes = [*products, back * back, gradient * direction, gradient * back]
        measured.rows.append(torch.stack([batch.cells[i].reduce(product) for product in of_nodes]))
        if batch.elementwise:
            measured.elements.append([p.sum(-1, keepdim=True) if batch.complex_pairs else p for p in products])
        if batch.decoupled_decay:
            direction = direction + direction.abs() * (point * batch.decoupled_decay).clamp(
                -LARGEST_DECAY, LARGEST_DECAY
            )
        moved = iterate - rates[i] * direction
        averaged = average + shares[i] * (moved - average)
        iterate.copy_(moved)
        if AVERAGE in state:
            state[AVERAGE].copy_(averaged)
        target = averaged if rests_at_average else beta * averaged + (1.0 - beta) * moved
        stays = rests_at_average != batch.at_training_point
        parameter.copy_(torch.where(live > 0, target, point) if stays else target)
        for name, value in state.items():
            close(batch, i, name, value, live)
    return measured
