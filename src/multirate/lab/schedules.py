"""Ordinary learning-rate schedules, by name; all are torch's own, stepped once a training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
)

from multirate.lab.registry import Registry
from multirate.lab.variants import CONSTANT


@dataclass(frozen=True)
class ScheduleEntry:
    """One line of the table of schedules.

    Attributes:
        name: What a user types.
        description: One line.
        citation: Where it comes from.
        attach: Puts it on an optimizer, given how many steps the training has; None when there is nothing to do.
    """

    name: str
    description: str
    citation: str
    attach: Callable[[Optimizer, int], LRScheduler | None]


def _constant(optimizer: Optimizer, steps: int) -> None:
    return None


def _time(optimizer: Optimizer, steps: int) -> LRScheduler:
    # Falls to a tenth at the end, like the others that need an end value.
    return LambdaLR(optimizer, lambda step: 1 / (1 + 9 * step / steps))


def _step(optimizer: Optimizer, steps: int) -> LRScheduler:
    return MultiStepLR(optimizer, [max(1, 3 * steps // 4)], gamma=0.1)


def _exponential(optimizer: Optimizer, steps: int) -> LRScheduler:
    return ExponentialLR(optimizer, gamma=0.01 ** (1 / steps))


def _linear(optimizer: Optimizer, steps: int) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))


def _cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=steps)


def _warmup_cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    warmup = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return LambdaLR(optimizer, factor)


def _restarts(optimizer: Optimizer, steps: int) -> LRScheduler:
    # Three cycles, each twice as long as the one before, fill the run.
    return CosineAnnealingWarmRestarts(optimizer, T_0=math.ceil(steps / 7), T_mult=2)


_COSINE = "Loshchilov & Hutter 2017, arXiv 1608.03983"

SCHEDULES: Registry[ScheduleEntry] = Registry(
    "schedule",
    [
        ScheduleEntry(CONSTANT, "the rate as it is", "", _constant),
        ScheduleEntry("time", "time-based decay 1/(1 + kt), to a tenth", "Li & Arora 2019, arXiv 1910.07454", _time),
        ScheduleEntry("step", "a tenth after three quarters of the run", "He et al. 2016, arXiv 1512.03385", _step),
        ScheduleEntry("exponential", "to a hundredth, evenly", "Li & Arora 2019, arXiv 1910.07454", _exponential),
        ScheduleEntry("linear", "linearly to zero", "Defazio et al. 2023, arXiv 2310.07831", _linear),
        ScheduleEntry("cosine", "half a cosine to zero", _COSINE, _cosine),
        ScheduleEntry(
            "warmup-cosine", "linear warm-up for a twentieth, then a cosine to zero", _COSINE, _warmup_cosine
        ),
        ScheduleEntry("restarts", "cosine with warm restarts, cycles doubling in length", _COSINE, _restarts),
    ],
)
