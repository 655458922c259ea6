"""Steps of several optimizers, timed in one process, round by round.

A round times one step of each, and the copying and the reading of a large tensor, in an order that is drawn anew. What
slows the machine for a while then slows all of them, and ratios stay meaningful.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multirate.lab.bench.candidates import Candidate
from multirate.lab.bench.clocks import Clock, Lap, clock_for
from multirate.lab.bench.memory import peak_bytes, state_bytes
from multirate.lab.bench.shapes import Shapes

WARM_UPS = 2
SEED = 0
COPY, READ = "copy", "read"


@dataclass(frozen=True)
class Measured:
    """What was measured of one optimizer.

    Attributes:
        name: Its name among the candidates.
        seconds: Time of one step, for every round that counts.
        host: Time until the call returned.
        first: Time of its first step, which makes the state and may compile.
        state_bytes: Size of all tensors of its state dict.
        peak_bytes: Memory that a step needs for a moment; None where it was not looked at.
    """

    name: str
    seconds: tuple[float, ...]
    host: tuple[float, ...]
    first: float
    state_bytes: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Rounds:
    """What was measured side by side.

    Attributes:
        optimizers: The optimizers.
        copied: Elements of the tensor that was copied and read; 0 where none was.
        copy: Time to copy it, for every round.
        read: Time of the dot product of two such tensors, for every round.
    """

    optimizers: tuple[Measured, ...]
    copied: int
    copy: tuple[float, ...]
    read: tuple[float, ...]


class Gradients:
    """The gradients of a list of parameters, which everyone is given anew before a step.

    All optimizers have the same tensors, filled again each time: one may write into what it is given.

    Args:
        shapes: Names and shapes.
        device: Where they live.
    """

    def __init__(self, shapes: Shapes, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(SEED + 1)
        self._directions = [1e-3 * torch.randn(shape, generator=generator).to(device) for shape in shapes.values()]
        self._given = [torch.empty_like(direction) for direction in self._directions]

    def give(self, parameters: Sequence[nn.Parameter], scale: float) -> None:
        """Let the parameters have gradients of this scale."""
        for parameter, direction, given in zip(parameters, self._directions, self._given, strict=True):
            torch.mul(direction, scale, out=given)
            parameter.grad = given


class Contestant:
    """An optimizer with its own copy of the parameters.

    Args:
        candidate: The optimizer.
        start: Names and values of the parameters.
        gradients: Gives the gradients.
    """

    def __init__(self, candidate: Candidate, start: Mapping[str, Tensor], gradients: Gradients) -> None:
        self.candidate = candidate
        self._parameters = {name: nn.Parameter(value.clone()) for name, value in start.items()}
        self._gradients = gradients
        self._optimizer = candidate.build(self._parameters.items(), candidate.settings)
        if hasattr(self._optimizer, "train"):
            self._optimizer.train()
        self._laps: list[Lap] = []

    def step(self, scale: float, clock: Clock) -> None:
        """Time one step."""
        self._give(scale)
        self._laps.append(clock(self._optimizer.step))
        self._optimizer.zero_grad()

    def measured(self, warm_ups: int, device: torch.device, *, with_peak: bool) -> Measured:
        """Return what was measured after so many steps, and take one more step if its memory is to be looked at."""
        peak = None
        if with_peak:
            self._give(1.0)
            peak = peak_bytes(self._optimizer.step, device)
        counted = self._laps[warm_ups:]
        return Measured(
            name=self.candidate.name,
            seconds=tuple(lap.seconds for lap in counted),
            host=tuple(lap.host for lap in counted),
            first=self._laps[0].seconds,
            state_bytes=state_bytes(self._optimizer),
            peak_bytes=peak,
        )

    def _give(self, scale: float) -> None:
        self._gradients.give(list(self._parameters.values()), scale)


class Bandwidth:
    """How fast memory is copied and read.

    Args:
        elements: Length of the tensors, large against every cache.
        device: Where they live.
    """

    def __init__(self, elements: int, device: torch.device) -> None:
        self._source, self._target = torch.ones(elements, device=device), torch.zeros(elements, device=device)
        self.laps: dict[str, list[Lap]] = {COPY: [], READ: []}

    def time(self, what: str, clock: Clock) -> None:
        """Time one of `COPY` and `READ`."""
        actions = {
            COPY: lambda: self._target.copy_(self._source),
            READ: lambda: torch.dot(self._source, self._target),
        }
        self.laps[what].append(clock(actions[what]))


def measure(
    candidates: Sequence[Candidate],
    shapes: Shapes,
    *,
    rounds: int,
    device: torch.device,
    copied: int = 0,
    with_peak: bool = False,
    on_round: Callable[[], None] = lambda: None,
) -> Rounds:
    """Time the optimizers' steps.

    Args:
        candidates: What to measure.
        shapes: Parameter names and shapes.
        rounds: Rounds that count; `WARM_UPS` more come before them, in the first of which all is compiled.
        device: Where to.
        copied: Elements of the tensor that is copied and read in every round; 0 for none.
        with_peak: Whether to look at the memory of a step.
        on_round: Called after every round, warm-ups included.
    """
    clock, chance = clock_for(device), random.Random(SEED)
    generator = torch.Generator().manual_seed(SEED)
    start = {name: 0.05 * torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
    gradients = Gradients(shapes, device)
    contestants = [Contestant(candidate, start, gradients) for candidate in candidates]
    del start
    bandwidth = Bandwidth(max(copied, 1), device)
    for _ in range(WARM_UPS + rounds):
        scale = chance.uniform(0.5, 2.0)
        turns: list[Contestant | str] = [*contestants, *((COPY, READ) if copied else ())]
        for turn in chance.sample(turns, len(turns)):
            if isinstance(turn, str):
                bandwidth.time(turn, clock)
            else:
                turn.step(scale, clock)
        on_round()
    return Rounds(
        optimizers=tuple(contestant.measured(WARM_UPS, device, with_peak=with_peak) for contestant in contestants),
        copied=copied,
        copy=tuple(lap.seconds for lap in bandwidth.laps[COPY][WARM_UPS:]),
        read=tuple(lap.seconds for lap in bandwidth.laps[READ][WARM_UPS:]),
    )
