"""What several seeds of a small model cost: one after another, or batched by `torch.func.vmap`.

A seed of a small model leaves most of the machine idle: its time goes into starting operations, not into arithmetic.
Batched, the parameters of all seeds are stacked along a first dimension, and one operation serves all of them.
All ways are timed round by round, so that what slows the machine for a while slows all of them.
"""

from __future__ import annotations

import copy
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from multirate.lab.markdown import markdown_table, write_measurement
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.problems.base import Batch
from multirate.lab.problems.classification import Classification
from multirate.lab.results import Trial
from multirate.lab.tasks import TASKS
from multirate.lab.trial import NOISE_OFFSET, trial_settings

ROUNDS = 5
WARM_UP_STEPS = 10
ELEMENTWISE = ("torch.optim:Adam", "torch.optim:AdamW", "torch.optim:SGD")
"""Optimizers for which stacked parameters are no different from separate ones."""


@dataclass(frozen=True)
class SeedsTiming:
    """What was measured of one optimizer on one task.

    Attributes:
        task: Name of the task.
        optimizer: Name of the optimizer.
        seeds: Number of seeds S.
        steps: Steps of each seed.
        optimizers: Optimizers in the batched way: one for all seeds where it is elementwise, else one for each seed.
        one: Seconds for one seed, for every round.
        successive: Seconds for S seeds one after another.
        batched: Seconds for S seeds batched.
        difference: Largest relative difference between a training loss of the two ways, over all seeds and steps.
        cores: Processor cores of the machine.
    """

    task: str
    optimizer: str
    seeds: int
    steps: int
    optimizers: int
    one: tuple[float, ...]
    successive: tuple[float, ...]
    batched: tuple[float, ...]
    difference: float
    cores: int

    def cost(self, seconds: Sequence[float]) -> float:
        """Return the median over the rounds of a time in units of the same round's time for one seed."""
        return statistics.median(each / one for each, one in zip(seconds, self.one, strict=True))

    @property
    def in_processes(self) -> int:
        """Cost of S seeds in one process for each core, in units of one seed: ``⌈S / cores⌉``."""
        return math.ceil(self.seeds / self.cores)


def measure_seeds(
    task: str,
    optimizer: str,
    seeds: int,
    steps: int,
    *,
    rounds: int = ROUNDS,
    on_round: Callable[[], None] = lambda: None,
) -> SeedsTiming:
    """Time one seed, S seeds one after another, and S seeds batched, on one thread each.

    Args:
        task: Name of a classification task whose model has no buffers.
        optimizer: Name of an optimizer that asks for gradients alone.
        seeds: Number of seeds S, at least 2.
        steps: Training steps of each seed.
        rounds: Rounds that count; a short one comes before them.
        on_round: Called after every round that counts.

    Raises:
        ValueError: If the task or the optimizer cannot be batched, or a number is too small.
    """
    for name, number, least in (("seeds", seeds, 2), ("steps", steps, 1), ("rounds", rounds, 1)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(task, optimizer, seeds, steps, rounds, on_round)
    finally:
        torch.set_num_threads(threads)


def _measure(
    task: str, optimizer: str, seeds: int, steps: int, rounds: int, on_round: Callable[[], None]
) -> SeedsTiming:
    def learners(count: int) -> list[Learner]:
        return [Learner(task, optimizer, seed) for seed in range(count)]

    # Learners are made before the clock is started: what is compared are steps.
    ways: dict[str, Callable[[], Callable[[int], Tensor]]] = {
        "one": lambda: Successive(learners(1)).train,
        "successive": lambda: Successive(learners(seeds)).train,
        "batched": lambda: Batched(learners(seeds)).train,
    }
    for way in ways.values():
        way()(WARM_UP_STEPS)
    times: dict[str, list[float]] = {name: [] for name in ways}
    losses = {}
    chance = random.Random(0)
    for _ in range(rounds):
        for name in chance.sample(list(ways), len(ways)):
            train = ways[name]()
            started = time.perf_counter()
            losses[name] = train(steps)
            times[name].append(time.perf_counter() - started)
        on_round()
    difference = float(((losses["batched"] - losses["successive"]) / losses["successive"]).abs().max())
    seconds = {name: tuple(values) for name, values in times.items()}
    optimizers = 1 if _is_elementwise(optimizer) else seeds
    return SeedsTiming(
        task, optimizer, seeds, steps, optimizers, **seconds, difference=difference, cores=os.cpu_count() or 1
    )


# -- the ways to train


class Learner:
    """A model, its optimizer and its own order of the examples, as a trial with this seed has them.

    Args:
        task: Name of a classification task whose model has no buffers.
        optimizer: Name of an optimizer that asks for gradients alone.
        seed: The seed.

    Raises:
        ValueError: If task or optimizer are not of this kind.
    """

    def __init__(self, task: str, optimizer: str, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            problem = TASKS[task].problem(torch.device("cpu"), None)
        if not isinstance(problem, Classification) or any(True for _ in problem.model.buffers()):
            raise ValueError(f"task {task!r} cannot be batched: choose a classification task without normalisation")
        self.problem = problem
        self.optimizer_name = optimizer
        self._settings = trial_settings(Trial(task, optimizer, seed, epochs=1))
        self._order = torch.Generator().manual_seed(seed)
        self._noise = torch.Generator().manual_seed(seed + NOISE_OFFSET)

    def build_optimizer(self, parameters: Mapping[str, Any]) -> torch.optim.Optimizer:
        """Return the optimizer over these parameters."""
        optimizer = OPTIMIZERS[self.optimizer_name].build(parameters.items(), self._settings)
        needs = getattr(optimizer, "needs", "gradient")
        if needs != "gradient" or hasattr(optimizer, "prepare"):
            raise ValueError(f"optimizer {self.optimizer_name!r} cannot be batched: it asks for more than gradients")
        train = getattr(optimizer, "train", None)
        if train is not None:
            train()
        return optimizer

    def batches(self) -> Iterator[Batch]:
        """Yield batches, epoch after epoch, without an end."""
        while True:
            yield from self.problem.batches(self._order, self._noise)


class Successive:
    """Learners trained one after another.

    Args:
        learners: The learners.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self._learners = learners
        self._optimizers = [each.build_optimizer(dict(each.problem.model.named_parameters())) for each in learners]

    def train(self, steps: int) -> Tensor:
        """Take steps; return the training losses, shape (learners, steps)."""
        return torch.stack([self._train(*each, steps) for each in zip(self._learners, self._optimizers, strict=True)])

    def _train(self, learner: Learner, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
        losses = []
        for _, batch in zip(range(steps), learner.batches(), strict=False):
            optimizer.zero_grad()
            loss = learner.problem.loss(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)


class Batched:
    """Learners trained at once, on parameters of shape (learners, …).

    The gradient of the sum of the learners' losses is, in each learner's part, the gradient of its own loss.
    Where learned rates come from sums over the tensors of a model, one optimizer for all would mix the learners: there
    each has its own, over views of its parts.

    Args:
        learners: The learners; their models serve as initial values.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self._learners = learners
        models = [learner.problem.model for learner in learners]
        stacked, _ = stack_module_state(models)
        self._stacked: dict[str, Tensor] = {name: nn.Parameter(tensor.detach()) for name, tensor in stacked.items()}
        # Without storage: all it gives is the order of the operations.
        self._model = copy.deepcopy(models[0]).to("meta")
        self._parts: list[dict[str, nn.Parameter]] = []
        if _is_elementwise(learners[0].optimizer_name):
            self._optimizers = [learners[0].build_optimizer(self._stacked)]
        else:
            self._parts = [
                {name: nn.Parameter(tensor.detach()[index]) for name, tensor in self._stacked.items()}
                for index in range(len(learners))
            ]
            self._optimizers = [
                learner.build_optimizer(part) for learner, part in zip(learners, self._parts, strict=True)
            ]
        self._losses = vmap(self._loss)

    def train(self, steps: int) -> Tensor:
        """Take steps; return the training losses, shape (learners, steps)."""
        losses = []
        streams = [learner.batches() for learner in self._learners]
        for _, batches in zip(range(steps), zip(*streams, strict=True), strict=False):
            inputs, targets = (torch.stack(tensors) for tensors in zip(*batches, strict=True))
            values = self._losses(self._stacked, inputs, targets)
            self._step(values.sum())
            losses.append(values.detach())
        return torch.stack(losses, dim=1)

    def _loss(self, parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self._model, parameters, (inputs,)), targets)

    def _step(self, loss: Tensor) -> None:
        for tensor in self._stacked.values():
            tensor.grad = None
        # Not `torch.autograd.grad`: its gradients may be strided otherwise than the parameters, which torch's fused
        # kernels do not expect.
        loss.backward()
        for index, part in enumerate(self._parts):
            for name, parameter in part.items():
                gradient = self._stacked[name].grad
                parameter.grad = None if gradient is None else gradient[index]
        for optimizer in self._optimizers:
            optimizer.step()


def _is_elementwise(optimizer: str) -> bool:
    return OPTIMIZERS[optimizer].constructor in ELEMENTWISE


# -- the record


def rows(timings: Sequence[SeedsTiming]) -> list[dict[str, str]]:
    """Return the table as text, a dictionary of columns for each line; costs are in units of one seed."""
    return [
        {
            "task": timing.task,
            "optimizer": timing.optimizer,
            "seeds": str(timing.seeds),
            "one seed, ms a step": f"{1e3 * statistics.median(timing.one) / timing.steps:.2f}",
            "one after another": f"{timing.cost(timing.successive):.1f}",
            "batched": f"{timing.cost(timing.batched):.1f}",
            "optimizers in the batch": str(timing.optimizers),
            f"{timing.cores} processes": str(timing.in_processes),
            "largest difference of a loss": f"{timing.difference:.1e}",
        }
        for timing in timings
    ]


def write(folder: Path, timings: Sequence[SeedsTiming], *, command: str) -> tuple[Path, Path]:
    """Write seeds.json (everything that was measured) and seeds.md (the table).

    Returns:
        The paths of the two files.
    """
    first = timings[0]
    return write_measurement(
        folder,
        "seeds",
        title="Cost of several seeds",
        text=f"Time of {first.steps} training steps of every seed, in units of the time for one seed alone: median of "
        f"{len(first.one)} rounds, each of which times every way, in an order drawn anew, on one thread. Batched: "
        "stacked parameters, forward and backward by torch.func.vmap; one optimizer for all seeds where it works "
        "element by element, else one for each seed over views of its part. The column of processes is arithmetic: "
        "seeds divided by cores, rounded up. The difference is relative, the largest over all seeds and steps.",
        command=command,
        details={},
        timings=timings,
        table=markdown_table(rows(timings), text_columns=2),
    )
