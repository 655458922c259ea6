"""How the time of a step grows: with the length of one tensor, and with the number of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from multirate.lab.bench.candidates import Candidate
from multirate.lab.bench.measuring import measure
from multirate.lab.bench.shapes import Shapes, flat_shapes
from multirate.lab.registry import Registry

WIDTH = 16


@dataclass(frozen=True)
class Sweep:
    """Lists of parameters of growing size.

    Attributes:
        name: For files.
        title: What grows.
        axis: What is counted.
        sizes: The counts.
        quick: Those of a trial.
        make: Returns names and shapes for a count.
    """

    name: str
    title: str
    axis: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    make: Callable[[int], Shapes]


@dataclass(frozen=True)
class GrowthRow:
    """The step of one optimizer at one size.

    Attributes:
        sweep: Name of the sweep.
        size: The count.
        optimizer: Name among the candidates.
        seconds: Time of one step, for every round.
    """

    sweep: str
    size: int
    optimizer: str
    seconds: tuple[float, ...]


def many_shapes(tensors: int) -> Shapes:
    """Return so many matrices of 16 × 16, every one a layer."""
    return {f"{layer}.weight": (WIDTH, WIDTH) for layer in range(tensors)}


SWEEPS: Registry[Sweep] = Registry(
    "sweep",
    [
        Sweep(
            "parameters", "One tensor", "elements", tuple(1 << power for power in range(10, 26, 3)), (16, 64),
            flat_shapes,
        ),
        Sweep(
            "tensors", "Tensors of 16 × 16", "tensors", tuple(1 << power for power in range(0, 13, 2)), (1, 4),
            many_shapes,
        ),
    ],
)  # fmt: skip


def run_growth(
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    device: torch.device,
    quick: bool,
    on_size: Callable[[], None] = lambda: None,
) -> list[GrowthRow]:
    """Time the candidates that are among the lines of growth, at every size.

    Args:
        candidates: What may be measured.
        rounds: Rounds that count at each size.
        device: Where to.
        quick: Whether small sizes do.
        on_size: Called after every size.
    """
    chosen = [candidate for candidate in candidates if candidate.in_growth]
    rows = []
    for sweep in SWEEPS.values():
        for size in sweep.quick if quick else sweep.sizes:
            found = measure(chosen, sweep.make(size), rounds=rounds, device=device).optimizers if chosen else ()
            rows += [GrowthRow(sweep.name, size, measured.name, measured.seconds) for measured in found]
            on_size()
    return rows
