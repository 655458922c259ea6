"""What a user sees: whole training steps, with one optimizer or another.

The models have the same shape and the same fixed batch; a round takes one step of each, forward, backward and
optimizer, in an order drawn anew. What is judged is the ratio to AdamW's fused path within a round.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multirate.lab.bench.candidates import Candidate
from multirate.lab.bench.clocks import Clock, clock_for
from multirate.lab.bench.measuring import SEED, WARM_UPS
from multirate.lab.judging.estimates import median_interval
from multirate.lab.models.resnet import ResNet18
from multirate.lab.models.transformer import Transformer
from multirate.lab.registry import Registry

REFERENCE = "adamw-fused"


@dataclass(frozen=True)
class Workload:
    """A model and a random batch for it.

    Attributes:
        name: For tables.
        description: Model and batch.
        model: Makes the model; the argument says whether a small one does.
        batch: Makes inputs and targets.
    """

    name: str
    description: str
    model: Callable[[bool], nn.Module]
    batch: Callable[[bool], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainingTiming:
    """The training steps of one optimizer.

    Attributes:
        workload: Name of the model.
        optimizer: Name among the candidates.
        parameters: Number of elements of the model.
        seconds: Time of a whole step, for every round.
        stepping: Time of the optimizer's part of it.
    """

    workload: str
    optimizer: str
    parameters: int
    seconds: tuple[float, ...]
    stepping: tuple[float, ...]


@dataclass(frozen=True)
class Overhead:
    """How much longer a training step takes than with AdamW's fused path.

    Attributes:
        median: Median over the rounds of the ratio within a round, less 1.
        interval: An interval that holds the true median with 95 % confidence; None for too few rounds.
        of_part: How much longer the optimizer's part took, as a share of the whole step with AdamW. It is far less
            noisy, but does not see what an optimizer does during forward and backward; None where it was not timed.
    """

    median: float
    interval: tuple[float, float] | None
    of_part: float | None


def _images(quick: bool) -> tuple[Tensor, Tensor]:
    count = 2 if quick else 32
    return torch.randn(count, 3, 32, 32), torch.randint(10, (count,))


def _tokens(quick: bool) -> tuple[Tensor, Tensor]:
    count, length = (1, 8) if quick else (8, 128)
    tokens = torch.randint(64 if quick else 4096, (count, length + 1))
    return tokens[:, :-1], tokens[:, 1:]


def _gpt(quick: bool) -> nn.Module:
    return Transformer(64, 8, 1, 2, 8) if quick else Transformer(4096, 128, 4, 4, 256)


WORKLOADS: Registry[Workload] = Registry(
    "workload",
    [
        Workload(
            "resnet18",
            "ResNet-18 for 32 × 32 images, batch 32",
            lambda quick: ResNet18(width=4 if quick else 64),
            _images,
        ),
        Workload("gpt", "GPT of 4 blocks, width 256, vocabulary 4096, batch 8 × 128 tokens", _gpt, _tokens),
    ],
)


@dataclass
class _Trainee:
    """A model with its optimizer."""

    candidate: Candidate
    model: nn.Module
    optimizer: torch.optim.Optimizer
    clock: Clock
    seconds: list[float] = field(default_factory=list)
    stepping: list[float] = field(default_factory=list)

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        self.seconds.append(self.clock(lambda: self._step(inputs, targets)).seconds)

    def _step(self, inputs: Tensor, targets: Tensor) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(inputs).flatten(0, -2), targets.flatten()).backward()
        # On a GPU waiting here for the time of this part would delay the whole.
        if inputs.device.type == "cpu":
            self.stepping.append(self.clock(self.optimizer.step).seconds)
        else:
            self.optimizer.step()


def run_training(
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    device: torch.device,
    quick: bool,
    on_round: Callable[[], None] = lambda: None,
) -> list[TrainingTiming]:
    """Time whole training steps of the candidates that train models.

    Args:
        candidates: What may be measured.
        rounds: Rounds that count; `WARM_UPS` more come before them.
        device: Where to.
        quick: Whether small models do.
        on_round: Called after every round, warm-ups included.
    """
    chosen = [candidate for candidate in candidates if candidate.in_training]
    found = []
    for workload in WORKLOADS.values():
        trainees = [_trainee(candidate, workload, device, quick) for candidate in chosen]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            inputs, targets = (tensor.to(device) for tensor in workload.batch(quick))
        chance = random.Random(SEED)
        for _ in range(WARM_UPS + rounds):
            for trainee in chance.sample(trainees, len(trainees)):
                trainee.step(inputs, targets)
            on_round()
        found += [
            TrainingTiming(
                workload.name,
                trainee.candidate.name,
                sum(parameter.numel() for parameter in trainee.model.parameters()),
                tuple(trainee.seconds[WARM_UPS:]),
                tuple(trainee.stepping[WARM_UPS:]),
            )
            for trainee in trainees
        ]
    return found


def overhead(timing: TrainingTiming, timings: Sequence[TrainingTiming]) -> Overhead | None:
    """Compare with AdamW's fused path on the same model, round by round; None without it, and for itself."""
    for other in timings:
        if timing is not other and (other.workload, other.optimizer) == (timing.workload, REFERENCE):
            ratios = [own / its - 1 for own, its in zip(timing.seconds, other.seconds, strict=True)]
            return Overhead(statistics.median(ratios), median_interval(ratios), _of_part(timing, other))
    return None


def _of_part(timing: TrainingTiming, other: TrainingTiming) -> float | None:
    if not timing.stepping or not other.stepping:
        return None
    longer = [own - its for own, its in zip(timing.stepping, other.stepping, strict=True)]
    return statistics.median(longer) / statistics.median(other.seconds)


def _trainee(candidate: Candidate, workload: Workload, device: torch.device, quick: bool) -> _Trainee:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = workload.model(quick).to(device)
    optimizer = candidate.build(model.named_parameters(), candidate.settings)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return _Trainee(candidate, model, optimizer, clock_for(device))
