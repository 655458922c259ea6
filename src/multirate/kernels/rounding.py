"""State kept in bfloat16: computed in float32 and rounded up or down at random, so that small changes are not lost.

A number between two of bfloat16 becomes the upper one with a probability that grows from 0 to 1 between them: its
expectation is itself, and one of bfloat16 stays as it is. What decides is a hash of the step, the tensor, the name of
the buffer and the place of the element in memory; the same integers everywhere, so that kernels and devices agree and a
run that is resumed goes on bit for bit.
"""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

from multirate.kernels.batch import Batch

SHORT = torch.bfloat16
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
"""Of Chris Wellons' ``lowbias32``, between shifts by 16, 15 and 16 bits."""


def number(name: str) -> int:
    """What stands for a buffer, in 32 bits."""
    return crc32(name.encode())


def seeds(steps: Tensor) -> Tensor:
    """A number for every tensor, another one in every step: int32.

    Args:
        steps: How many steps each tensor has taken.
    """
    places = torch.arange(len(steps), dtype=torch.int32, device=steps.device)
    return _mixed(_mixed(steps.to(torch.int32)) ^ places)


def rounded(value: Tensor, seed: Tensor, name: str) -> Tensor:
    """A float32 tensor in bfloat16.

    Args:
        value: The tensor, dense.
        seed: That of its parameter in this step, 0-d.
        name: Of the buffer.
    """
    places = torch.arange(value.numel(), dtype=torch.int32, device=value.device)
    places = places.as_strided(value.shape, value.stride())
    noise = _shifted(_mixed(places ^ _mixed(seed + _signed(number(name)))), 16)
    return ((value.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32).to(SHORT)


def opened(batch: Batch, i: int) -> dict[str, Tensor]:
    """State of one tensor of a batch to calculate with: what is kept short is a copy in float32."""
    state = {name: tensors[i] for name, tensors in batch.state.items()}
    return {name: kept.to(torch.float32) if kept.dtype == SHORT else kept for name, kept in state.items()}


def close(batch: Batch, i: int, name: str, value: Tensor, live: Tensor) -> None:
    """Puts back what :func:`opened` had copied, but on a skipped step.

    (There AMSGrad's maximum would grow, for the second moment that it is of may have been rounded up above it.)
    """
    kept = batch.state[name][i]
    if value is not kept:
        assert batch.seeds is not None
        kept.copy_(torch.where(live > 0, rounded(value, batch.seeds[i], name), kept))


def _mixed(x: Tensor) -> Tensor:
    """A hash of 32 bits; multiplication drops what does not fit."""
    for shift, multiplier in zip((16, 15), MULTIPLIERS, strict=True):
        x = (x ^ _shifted(x, shift)) * _signed(multiplier)
    return x ^ _shifted(x, 16)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 32) if bits >= 1 << 31 else bits
