"""Where the time of our steps goes: the passes over memory one by one, and what is left.

The functions of the compiled kernels are timed from outside while steps are taken, side by side with fused AdamW and
with copying and reading a large tensor. A pass counts the bytes that it has to move, so that it can be held against
what the machine reads and copies in the same rounds; the rest of a step is the host's.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from multirate.kernels import compiled
from multirate.lab.bench.candidates import OWN, Candidate
from multirate.lab.bench.clocks import clock_for
from multirate.lab.bench.measuring import COPY, READ, SEED, WARM_UPS, Bandwidth, Contestant, Gradients
from multirate.lab.bench.shapes import Shapes
from multirate.lab.bench.traffic import COPY_BYTES, NUMBER, READ_BYTES

FUSED = "adamw-fused"
CASE = "resnet50"

_NUMBERS: Mapping[str, Mapping[str, int]] = {
    "adamw-self": {"look": 2, "advance": 8},
    "cam-hd-parameter": {"measure": 4, "apply": 9},
}
"""Numbers that the passes move for an element, where they are not those of Adam."""
_OF_ADAM = {"look": 1, "measure": 3, "apply": 7, "measure_and_apply": 7}


@dataclass(frozen=True)
class Profile:
    """The steps of one optimizer, taken apart.

    Attributes:
        optimizer: Name among the candidates.
        seconds: Time of a step, for every round.
        passes: Time of each pass, for every round.
    """

    optimizer: str
    seconds: tuple[float, ...]
    passes: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Profiles:
    """What was measured side by side.

    Attributes:
        case: Shapes of the parameters.
        parameters: Elements.
        tensors: Tensors.
        optimizers: Steps.
        copied: Elements of the tensor that was copied and read.
        copy: Time to copy it.
        read: Time of the dot product of two such tensors.
    """

    case: str
    parameters: int
    tensors: int
    optimizers: tuple[Profile, ...]
    copied: int
    copy: tuple[float, ...]
    read: tuple[float, ...]


@contextmanager
def _timed(found: dict[str, float]) -> Iterator[None]:
    """Has every pass add its time to what was found."""
    kept = {name: getattr(compiled, name) for name in ("look", *_OF_ADAM, "advance")}
    formulas = compiled.formulas.Pass
    ran = formulas._run

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            found[name] = found.get(name, 0.0) + time.perf_counter() - started
            return result

        return run

    try:
        for name, function in kept.items():
            setattr(compiled, name, watched(name, function))
        formulas._run = watched("measure", ran)  # type: ignore[method-assign]
        yield
    finally:
        for name, function in kept.items():
            setattr(compiled, name, function)
        formulas._run = ran  # type: ignore[method-assign]


def run_passes(
    candidates: Sequence[Candidate],
    shapes: Shapes,
    *,
    case: str,
    rounds: int,
    copied: int,
    on_round: Callable[[], None] = lambda: None,
) -> Profiles | None:
    """Take the steps of ours apart, on a CPU; ``None`` where nothing is compiled or nothing of ours is measured.

    Args:
        candidates: What may be measured.
        shapes: Names and shapes of the parameters.
        case: What they are called.
        rounds: Rounds that count.
        copied: Elements of the tensor that is copied and read in every round.
        on_round: Called after every round, warm-ups included.
    """
    own = [c for c in candidates if c.role == OWN and c.in_steps]
    if not own or not compiled.cpu.available():
        return None
    chosen = [*own, *(c for c in candidates if c.name == FUSED)]
    device = torch.device("cpu")
    clock, chance = clock_for(device), random.Random(SEED)
    generator = torch.Generator().manual_seed(SEED)
    start = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    gradients = Gradients(shapes, device)
    contestants = {c.name: Contestant(c, start, gradients) for c in chosen}
    bandwidth = Bandwidth(copied, device)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(WARM_UPS + rounds):
        scale = chance.uniform(0.5, 2.0)
        turns = [*contestants, COPY, READ]
        for turn in chance.sample(turns, len(turns)):
            if turn in (COPY, READ):
                bandwidth.time(turn, clock)
                continue
            found: dict[str, float] = {}
            with _timed(found):
                contestants[turn].step(scale, clock)
            times[turn].append(found)
        on_round()
    return Profiles(
        case=case,
        parameters=sum(value.numel() for value in start.values()),
        tensors=len(start),
        optimizers=tuple(
            Profile(
                name,
                contestant.measured(WARM_UPS, device, with_peak=False).seconds,
                {each: tuple(found[each] for found in times[name][WARM_UPS:]) for each in times[name][-1]},
            )
            for name, contestant in contestants.items()
        ),
        copied=copied,
        copy=tuple(lap.seconds for lap in bandwidth.laps[COPY][WARM_UPS:]),
        read=tuple(lap.seconds for lap in bandwidth.laps[READ][WARM_UPS:]),
    )


def rows(profiles: Profiles, descriptions: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the table as text: a line for every step, every pass of it, and what is left."""
    medians = {each.optimizer: statistics.median(each.seconds) for each in profiles.optimizers}
    unit = medians.get(FUSED)

    def row(what: str, seconds: float, numbers: int | None = None) -> dict[str, str]:
        rate = "–" if numbers is None else f"{NUMBER * numbers * profiles.parameters / seconds / 1e9:.1f}"
        return {
            "what": what,
            "ms": f"{1e3 * seconds:.1f}",
            "to fused AdamW": f"{seconds / unit:.2f}" if unit else "–",
            "bytes a parameter": "–" if numbers is None else str(NUMBER * numbers),
            "GB/s": rate,
        }

    copying, reading = statistics.median(profiles.copy), statistics.median(profiles.read)
    found = [
        _bandwidth_row("copying", copying, COPY_BYTES * profiles.copied),
        _bandwidth_row("reading", reading, READ_BYTES * profiles.copied),
    ]
    for each in profiles.optimizers:
        if each.optimizer == FUSED:
            found.append(row(descriptions[FUSED], medians[FUSED], 7))
            continue
        found.append(row(descriptions[each.optimizer], medians[each.optimizer]))
        numbers = {**_OF_ADAM, **_NUMBERS.get(each.optimizer, {})}
        for name, seconds in each.passes.items():
            found.append(row(f"… {name.replace('_', ' ')}", statistics.median(seconds), numbers[name]))
        passes = zip(*each.passes.values(), strict=True)
        rest = [whole - sum(parts) for whole, parts in zip(each.seconds, passes, strict=True)]
        found.append(row("… the host's part", statistics.median(rest)))
    return found


def _bandwidth_row(what: str, seconds: float, moved: int) -> dict[str, str]:
    return {
        "what": what,
        "ms": f"{1e3 * seconds:.1f}",
        "to fused AdamW": "–",
        "bytes a parameter": "–",
        "GB/s": f"{moved / seconds / 1e9:.1f}",
    }
