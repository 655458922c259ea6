"""Stopwatches: what a step took, and what of it the host was busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch


@dataclass(frozen=True)
class Lap:
    """What was timed.

    Attributes:
        seconds: Until the work was done.
        host: Until the call returned, which on a GPU may be long before.
    """

    seconds: float
    host: float


Clock: TypeAlias = Callable[[Callable[[], object]], Lap]


def clock_for(device: torch.device) -> Clock:
    """Return the stopwatch of a device."""
    return time_on_cuda if device.type == "cuda" else time_on_cpu


def time_on_cpu(action: Callable[[], object]) -> Lap:
    """Time a call."""
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    return Lap(seconds, seconds)


def time_on_cuda(action: Callable[[], object]) -> Lap:
    """Time a call between two events of the stream; all waiting is before the first and after the second."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    started = time.perf_counter()
    start.record()
    action()
    end.record()
    host = time.perf_counter() - started
    end.synchronize()
    return Lap(start.elapsed_time(end) / 1e3, host)
