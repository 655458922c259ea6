"""`multirate bench`: the time of one step, and the size of the state, of optimizers side by side.

All optimizers are measured in one process, round by round: a round times one step of each, in an order that
is drawn anew. What slows the machine for a while then slows all of them, and ratios stay meaningful.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from multirate.lab.markdown import markdown_table, write_measurement
from multirate.lab.optimizers.entry import OptimizerEntry
from multirate.lab.registry import Registry

WARM_UPS = 3
SEED = 0
BASELINES = ("adam-loop", "adam-foreach")

_TORCH_ADAM = "torch.optim:Adam"
_CAM_HD = "multirate:AdamCAMHD"

CANDIDATES: Registry[OptimizerEntry] = Registry(
    "candidate",
    [
        OptimizerEntry("adam-loop", _TORCH_ADAM, "torch Adam, foreach=False", "torch", {"foreach": False}),
        OptimizerEntry("adam-foreach", _TORCH_ADAM, "torch Adam, foreach=True", "torch", {"foreach": True}),
        OptimizerEntry("adam-fused", _TORCH_ADAM, "torch Adam, fused=True", "torch", {"fused": True}),
        OptimizerEntry("adam-hd", "multirate:AdamHD", "multirate.AdamHD", "multirate"),
        OptimizerEntry(
            "adam-cam-hd-layer",
            _CAM_HD,
            'multirate.AdamCAMHD, levels ("global", "layer")',
            "multirate",
            {"levels": ("global", "layer")},
        ),
        OptimizerEntry(
            "adam-cam-hd-unit",
            _CAM_HD,
            'multirate.AdamCAMHD, levels ("global", "unit")',
            "multirate",
            {"levels": ("global", "unit")},
        ),
        OptimizerEntry("multirate", "multirate:Adam", "multirate.Adam, self-tuning", "multirate"),
        OptimizerEntry("prodigy", "prodigyopt:Prodigy", "Prodigy", "prodigyopt", extra="bench"),
        OptimizerEntry(
            "schedule-free",
            "schedulefree:AdamWScheduleFree",
            "Schedule-Free AdamW",
            "schedulefree",
            extra="bench",
        ),
    ],
)


@dataclass(frozen=True)
class Timing:
    """What was measured of one optimizer.

    Attributes:
        name: Its name among the candidates.
        description: What it is.
        seconds: Time of one step, for every round.
        state_bytes: Size of all tensors of its state dict.
        parameters: Number of parameter elements.
    """

    name: str
    description: str
    seconds: tuple[float, ...]
    state_bytes: int
    parameters: int

    @property
    def median(self) -> float:
        """Median time of a step, in seconds."""
        return statistics.median(self.seconds)

    @property
    def bytes_per_parameter(self) -> float:
        """Size of the state for each parameter element."""
        return self.state_bytes / self.parameters


class _Contestant:
    """An optimizer with its own copy of the parameters."""

    def __init__(self, entry: OptimizerEntry, shapes: Mapping[str, Sequence[int]]) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.entry = entry
        self.parameters = {
            name: nn.Parameter(0.05 * torch.randn(*shape, generator=generator)) for name, shape in shapes.items()
        }
        self.optimizer = entry.build(self.parameters.items(), entry.settings)
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()
        self.seconds: list[float] = []

    def step(self, gradients: Sequence[Tensor], scale: float) -> None:
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            # A copy for each: an optimizer may write into the gradients it is given.
            parameter.grad = gradient * scale
        started = time.perf_counter()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - started)
        self.optimizer.zero_grad()

    def timing(self) -> Timing:
        return Timing(
            name=self.entry.name,
            description=self.entry.description,
            seconds=tuple(self.seconds[WARM_UPS:]),
            state_bytes=state_bytes(self.optimizer),
            parameters=sum(parameter.numel() for parameter in self.parameters.values()),
        )


def measure(
    entries: Sequence[OptimizerEntry],
    shapes: Mapping[str, Sequence[int]],
    *,
    rounds: int,
    on_round: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Time the optimizers' steps.

    Args:
        entries: What to measure.
        shapes: Parameter names and shapes.
        rounds: Rounds that count; `WARM_UPS` more come before them.
        on_round: Called after every round, warm-ups included.

    Returns:
        One timing for each entry, in the same order.
    """
    generator = torch.Generator().manual_seed(SEED + 1)
    gradients = [1e-3 * torch.randn(*shape, generator=generator) for shape in shapes.values()]
    contestants = [_Contestant(entry, shapes) for entry in entries]
    chance = random.Random(SEED)
    for _ in range(WARM_UPS + rounds):
        scale = chance.uniform(0.5, 2.0)
        for contestant in chance.sample(contestants, len(contestants)):
            contestant.step(gradients, scale)
        on_round()
    return [contestant.timing() for contestant in contestants]


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the size of all tensors of the state dict, each storage counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in _tensors(optimizer.state_dict())
    }
    return sum(storages.values())


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def rows(timings: Sequence[Timing]) -> list[dict[str, str]]:
    """Return the table as text, a dictionary of columns for each line.

    The ratio is to the faster of torch Adam's loop and foreach paths.
    """
    reference = min((timing.median for timing in timings if timing.name in BASELINES), default=None)
    return [
        {
            "optimizer": timing.description,
            "median ms": f"{1e3 * timing.median:.1f}",
            "min ms": f"{1e3 * min(timing.seconds):.1f}",
            "max ms": f"{1e3 * max(timing.seconds):.1f}",
            "ratio": f"{timing.median / reference:.2f}" if reference else "–",
            "state bytes/parameter": f"{timing.bytes_per_parameter:.2f}",
        }
        for timing in timings
    ]


def write(folder: Path, timings: Sequence[Timing], *, command: str) -> tuple[Path, Path]:
    """Write speed.json (everything that was measured) and speed.md (the table).

    Returns:
        The paths of the two files.
    """
    first = timings[0]
    return write_measurement(
        folder,
        "speed",
        title="Time of one step",
        text=f"Parameters shaped like ResNet-50's, {first.parameters:,} elements in fp32; fixed random gradients "
        f"at a scale drawn anew in every round. {len(first.seconds)} rounds after {WARM_UPS} "
        "warm-ups; a round times one step of each optimizer, in an order drawn anew. Ratio: median to that "
        "of the faster of torch Adam's loop and foreach paths. State: all tensors of the state dict.",
        command=command,
        details={"threads": torch.get_num_threads()},
        timings=timings,
        table=markdown_table(rows(timings), text_columns=1),
    )
