"""Averaged iterates on a CPU, one stretch of a tensor after the other, so that what is worked out stays in the cache.

A step has some twenty intermediate values for every element. As whole tensors they go through memory, most of it
memory that was never used before, which costs several times as much again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from multirate.kernels import foreach
from multirate.kernels.batch import ANCHOR, AVERAGE, ITERATE, LARGEST_DECAY, Batch, Measured
from multirate.kernels.compiled.layout import alike
from multirate.kernels.foreach import apply, limited, look, measure, scaled
from multirate.kernels.reference import gradient_of
from multirate.levels.cells import Cells

__all__ = ["advance", "apply", "fits", "look", "measure", "takes"]

LENGTH = 1 << 18
"""Elements of a stretch, a megabyte in float32."""
SHORTEST = 1 << 12
"""Elements that a tensor has at least; smaller ones are quicker as lists."""


def fits(batch: Batch, like: Tensor) -> bool:
    """Whether this is right for a batch: averaged iterates on a CPU, a rate no finer than a tensor."""
    return (
        ITERATE in batch.state
        and batch.options.get("foreach") is None
        and like.device.type == "cpu"
        and not batch.rounds
        and not batch.elementwise
        and not batch.complex_pairs
        and not torch.compiler.is_compiling()
    )


def takes(batch: Batch, cells: Cells, parameter: Tensor, gradient: Tensor, state: list[Tensor]) -> bool:
    """Whether one parameter with its gradient and state can be worked on here."""
    return (
        cells.whole
        and parameter.numel() >= SHORTEST
        and type(gradient) is Tensor
        and not gradient.is_neg()
        and alike(cells, False, parameter, [gradient, *state])
    )


def advance(
    batch: Batch,
    rates: Sequence[Tensor],
    c: Mapping[str, Sequence[Tensor]],
    live: Tensor,
    shares: Sequence[Tensor],
    rests_at_average: bool,
) -> Measured:
    """See :func:`multirate.kernels.reference.advance`."""
    if not live:  # on a CPU reading it waits for nothing
        return foreach.advance(batch, rates, c, live, shares, rests_at_average)
    measured, iterates = Measured([], []), batch.state[ITERATE]
    room = [iterates[0].new_empty(LENGTH) for _ in range(2)]
    directions = iterates[0].new_empty(max(iterate.numel() for iterate in iterates))
    for i, iterate in enumerate(iterates):
        own = {name: values[i] for name, values in c.items()}
        stretches = _stretches(batch, i, directions, room)
        sums = torch.stack([stretch.measure(own, live) for stretch in stretches]).sum(0).unsqueeze(1)
        scale = limited(batch, sums[1], iterate.numel(), own.get("scale"))
        for stretch in stretches:
            stretch.move(rates[i] if scale is None else rates[i] * scale, shares[i], rests_at_average)
        measured.rows.append(sums if scale is None else torch.stack(scaled(list(sums.unbind()), scale)))
    return measured


class _Stretch:
    """Part of a tensor.

    Args:
        batch: The batch of the tensor.
        parameter: Its part of the parameter, flat like all others.
        gradient: Its part of the gradient.
        state: Its parts of the state.
        direction: Where to keep its direction.
        room: Two tensors to work in.
    """

    def __init__(
        self,
        batch: Batch,
        parameter: Tensor,
        gradient: Tensor,
        state: Mapping[str, Tensor],
        direction: Tensor,
        room: list[Tensor],
    ) -> None:
        self.batch, self.parameter, self.gradient = batch, parameter, gradient
        self.state, self.direction, self.room = state, direction, room
        self.point = parameter.to(direction.dtype)

    def measure(self, c: Mapping[str, Tensor], live: Tensor) -> Tensor:
        """Moves the rule's state on, keeps the direction without its scale and returns the six sums with it."""
        batch, direction, point = self.batch, self.direction, self.point
        gradient = gradient_of(batch, self.parameter, self.gradient)
        direction.copy_(batch.rule.update(gradient, self.state, c, live, batch.options))
        behind = torch.sub(self.state.get(AVERAGE, point), self.state[ITERATE], out=self.room[0])
        if AVERAGE not in self.state and batch.at_training_point:
            behind.div_(batch.interpolation)
        back = torch.sub(self.state[ANCHOR], point, out=self.room[1])
        pairs = [(direction, behind), (direction, direction), (behind, behind)]
        pairs += [(back, back), (gradient, direction), (gradient, back)]
        return torch.stack([torch.dot(first, second) for first, second in pairs])

    def move(self, rate: Tensor, share: Tensor, rests_at_average: bool) -> None:
        """Moves iterate, average and parameter along the direction, which is lost."""
        batch, direction, iterate = self.batch, self.direction, self.state[ITERATE]
        if batch.decoupled_decay:
            decay, size = self.room
            torch.mul(self.point, batch.decoupled_decay, out=decay).clamp_(-LARGEST_DECAY, LARGEST_DECAY)
            direction.addcmul_(torch.abs(direction, out=size), decay)
        average = self.state.get(AVERAGE, self.point)
        if AVERAGE not in self.state and batch.at_training_point:
            average.lerp_(iterate, 1.0 - 1.0 / batch.interpolation)
        iterate.addcmul_(direction, rate, value=-1.0)
        average.lerp_(iterate, share)
        if AVERAGE in self.state:
            self.parameter.copy_(average)
        if not rests_at_average:
            beta = batch.rule.interpolation(batch.options)
            self.parameter.copy_(torch.lerp(iterate, average, beta, out=self.room[0]))


def _stretches(batch: Batch, i: int, directions: Tensor, room: list[Tensor]) -> list[_Stretch]:
    """One tensor of a batch in parts, in the order of memory."""
    count = batch.parameters[i].numel()
    tensors = [batch.parameters[i], batch.gradients[i], *(tensors[i] for tensors in batch.state.values())]
    flat = [*(tensor.as_strided((count,), (1,)) for tensor in tensors), directions[:count]]
    found = []
    for parameter, gradient, *state, direction in zip(*(tensor.split(LENGTH) for tensor in flat), strict=True):
        named = dict(zip(batch.state, state, strict=True))
        places = [tensor[: len(parameter)] for tensor in room]
        found.append(_Stretch(batch, parameter, gradient, named, direction, places))
    return found
