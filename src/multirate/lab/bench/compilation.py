"""What compiling costs: the first step of a process, with nothing kept on disk and after another like it."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch

from multirate.cache_folder import CACHE_VARIABLE
from multirate.lab.bench.candidates import CANDIDATES, Candidate
from multirate.lab.bench.clocks import clock_for
from multirate.lab.bench.measuring import Contestant, Gradients
from multirate.lab.bench.shapes import Shapes

SHAPES: Shapes = {"first.weight": (32, 16), "first.bias": (32,), "norm.weight": (32,)}
LATER = 5
_FOLDERS = (CACHE_VARIABLE, "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Environment variables for where compilers keep what they made."""


@dataclass(frozen=True)
class Compilation:
    """The first step of an optimizer in a new process.

    Attributes:
        name: Its name among the candidates.
        first: Its time, in seconds.
        later: Times of the next ones.
        again: Time of the first step of another process, which finds on disk what this one compiled.
        error: What went wrong, if it did; then there are no times.
    """

    name: str
    first: float = 0.0
    later: tuple[float, ...] = ()
    again: float | None = None
    error: str | None = None

    @property
    def seconds(self) -> float:
        """How much longer the first step took."""
        return self.first - statistics.median(self.later)


def compilations(candidates: Sequence[Candidate], device: torch.device, *, apart: bool = True) -> list[Compilation]:
    """Time the first steps of the candidates that compile.

    Args:
        candidates: What may be measured.
        device: Where to.
        apart: Give each two new processes and an empty folder, so that nothing is compiled already.
    """
    return [
        _in_new_processes(candidate.name, device) if apart else first_step(candidate.name, str(device))
        for candidate in candidates
        if candidate.compiles
    ]


def first_step(name: str, device: str) -> Compilation:
    """Time the first step and some more on three small tensors, here; an error is part of what is returned."""
    place = torch.device(device)
    start = {each: torch.full(shape, 0.1, device=place) for each, shape in SHAPES.items()}
    gradients, clock = Gradients(SHAPES, place), clock_for(place)
    # What torch itself sets up in a first step is nobody's compilation.
    settled = Contestant(CANDIDATES["adamw-foreach"], start, gradients)
    settled.step(1.0, clock)
    try:
        contestant = Contestant(CANDIDATES[name], start, gradients)
        for _ in range(1 + LATER):
            contestant.step(1.0, clock)
    except Exception as error:  # someone else's code, and a compiler that may be missing
        return Compilation(name, error=f"{type(error).__name__}: {error}")
    measured = contestant.measured(1, place, with_peak=False)
    return Compilation(name, measured.first, measured.seconds)


def _in_new_processes(name: str, device: torch.device) -> Compilation:
    with tempfile.TemporaryDirectory() as folder:
        one = _in_new_process(name, device, folder)
        another = one if one.error else _in_new_process(name, device, folder)
    return another if another.error else replace(one, again=another.first)


def _in_new_process(name: str, device: torch.device, folder: str) -> Compilation:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_keep_in, initargs=(folder,)) as pool:
        return pool.submit(first_step, name, str(device)).result()


def _keep_in(folder: str) -> None:
    os.environ.update({variable: os.path.join(folder, variable) for variable in _FOLDERS})
