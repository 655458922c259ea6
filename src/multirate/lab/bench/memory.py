"""Memory of an optimizer: what it keeps, and what a step needs for a moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the size of all tensors of the state dict, each storage counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(optimizer.state_dict())
    }
    return sum(storages.values())


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return how much more memory was allocated, at the height of a step, than before it.

    On a CPU every allocation that goes through torch is counted, without those made by NumPy. On a GPU it is the
    allocator's own account.
    """
    return _peak_on_cuda(step) if device.type == "cuda" else _peak_on_cpu(step)


def _peak_on_cpu(step: Callable[[], object]) -> int:
    # Otherwise the profiler tells its start and its end on standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=False) as profile:
        step()
    found = profile.profiler.kineto_results.events() if profile.profiler is not None else []
    changes = sorted((event for event in found if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return height(event.nbytes() for event in changes)


def height(changes: Iterable[int]) -> int:
    """Return the highest sum of the first so many changes, 0 at least."""
    now = most = 0
    for change in changes:
        now += change
        most = max(most, now)
    return most


def _peak_on_cuda(step: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
