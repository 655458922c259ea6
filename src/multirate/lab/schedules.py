"""Ordinary learning-rate schedules, by name; all are stepped by torch's own classes, once a training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
from multirate.lab.variants import CONSTANT, Settings


@dataclass(frozen=True)
class ScheduleEntry:
    """One line of the table of schedules.

    Attributes:
        name: What a user types.
        description: One line; its figures are the settings.
        citation: Where it comes from.
        scheduler: The class of torch that steps it; None where the rate is left alone.
        arguments: Returns the keyword arguments of that class, given how many steps the training has and the settings.
        settings: The figures of the schedule, by name.
    """

    name: str
    description: str
    citation: str
    scheduler: type[LRScheduler] | None = None
    arguments: Callable[..., dict[str, Any]] = dict
    settings: Settings = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the code of the schedule is, in words."""
        if self.scheduler is None:
            return "none is needed"
        steps = _place(self.scheduler)
        return f"{_place(self.arguments)}, stepped by {steps}" if self.scheduler is LambdaLR else steps

    def attach(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """Put the schedule on an optimizer, given how many steps the training has; None when there is nothing to do."""
        if self.scheduler is None:
            return None
        return self.scheduler(optimizer, **self.arguments(steps, **self.settings))


def _place(code: Callable[..., object]) -> str:
    return f"{code.__module__}:{code.__qualname__}"


def time_decay(steps: int, k: float) -> dict[str, Any]:
    """Return the factor 1 / (1 + kt) of the rate, where t goes from 0 to 1."""
    return {"lr_lambda": lambda step: 1 / (1 + k * step / steps)}


def linear_decay(steps: int) -> dict[str, Any]:
    """Return the factor 1 - t of the rate, where t goes from 0 to 1."""
    return {"lr_lambda": lambda step: max(0.0, 1 - step / steps)}


def warmup_cosine(steps: int, warmup: float) -> dict[str, Any]:
    """Return the factor of the rate that grows for a share of the steps, at least one, and then falls to zero."""
    first = max(1, int(warmup * steps))

    def factor(step: int) -> float:
        if step < first:
            return (step + 1) / (first + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))

    return {"lr_lambda": factor}


def _step(steps: int, after: float, factor: float) -> dict[str, Any]:
    return {"milestones": [max(1, int(after * steps))], "gamma": factor}


def _exponential(steps: int, end: float) -> dict[str, Any]:
    return {"gamma": end ** (1 / steps)}


def _cosine(steps: int) -> dict[str, Any]:
    return {"T_max": steps}


def _restarts(steps: int, cycles: int, growth: int) -> dict[str, Any]:
    return {"T_0": math.ceil(steps / sum(growth**cycle for cycle in range(cycles))), "T_mult": growth}


_LI_ARORA = "Li & Arora 2019, arXiv 1910.07454"
_COSINE = "Loshchilov & Hutter 2017, arXiv 1608.03983"

SCHEDULES: Registry[ScheduleEntry] = Registry(
    "schedule",
    [
        ScheduleEntry(CONSTANT, "the rate as it is", ""),
        ScheduleEntry(
            "time", "time-based decay 1/(1 + kt), t from 0 to 1 in the run", _LI_ARORA, LambdaLR, time_decay, {"k": 9}
        ),
        ScheduleEntry(
            "step", "one drop by a factor, after a share of the run", "He et al. 2016, arXiv 1512.03385",
            MultiStepLR, _step, {"after": 0.75, "factor": 0.1},
        ),
        ScheduleEntry(
            "exponential", "evenly in its logarithm, to a share of the rate at the end", _LI_ARORA,
            ExponentialLR, _exponential, {"end": 0.01},
        ),
        ScheduleEntry("linear", "linearly to zero", "Defazio et al. 2023, arXiv 2310.07831", LambdaLR, linear_decay),
        ScheduleEntry("cosine", "half a cosine to zero", _COSINE, CosineAnnealingLR, _cosine),
        ScheduleEntry(
            "warmup-cosine", "linear warm-up for a share of the run, then half a cosine to zero", _COSINE,
            LambdaLR, warmup_cosine, {"warmup": 0.05},
        ),
        ScheduleEntry(
            "restarts", "cosine with warm restarts: cycles that fill the run, each longer by the factor growth",
            _COSINE, CosineAnnealingWarmRestarts, _restarts, {"cycles": 3, "growth": 2},
        ),
    ],
)  # fmt: skip
