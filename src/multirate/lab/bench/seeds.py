"""What several seeds of a small model cost: one after another, batched by `torch.func.vmap`, or in several processes.

A seed of a small model leaves most of the machine idle: its time goes into starting operations, not into arithmetic.
Batched, the parameters of all seeds are stacked along a first dimension, and one operation serves all of them.
Processes share the seeds among them and train theirs one after another, as `--jobs` does.
All ways are timed round by round, so that what slows the machine for a while slows all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import torch
from torch import Tensor

from multirate.lab.bench.learners import Batched, Learner, Successive, is_elementwise
from multirate.lab.machine import Machine, keep_freed_memory
from multirate.lab.markdown import markdown_table, write_measurement
from multirate.lab.run_state import Stopwatch
from multirate.lab.runner import end_with_parent

ROUNDS = 5
WARM_UP_STEPS = 10
START_SECONDS = 300.0
"""How long processes may take until all of them can begin."""

Way: TypeAlias = Callable[[int], Callable[[], Tensor]]
"""Makes learners; gives the function that takes so many steps and returns the training losses, (learners, steps)."""


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
        processes: Seconds for S seeds in processes.
        jobs: How many processes.
        difference: Largest relative difference between a training loss of the two ways, over all seeds and steps.
        cores: Processor cores of the machine.
        device: What was trained on.
    """

    task: str
    optimizer: str
    seeds: int
    steps: int
    optimizers: int
    one: tuple[float, ...]
    successive: tuple[float, ...]
    batched: tuple[float, ...]
    processes: tuple[float, ...]
    jobs: int
    difference: float
    cores: int
    device: str

    def cost(self, seconds: Sequence[float]) -> float:
        """Return the median over the rounds of a time in units of the same round's time for one seed."""
        return statistics.median(each / one for each, one in zip(seconds, self.one, strict=True))


def measure_seeds(
    task: str,
    optimizer: str,
    seeds: int,
    steps: int,
    *,
    rounds: int = ROUNDS,
    jobs: int = 2,
    device: str = "cpu",
    on_round: Callable[[], None] = lambda: None,
) -> SeedsTiming:
    """Time one seed, and S seeds one after another, batched, and in processes, on one thread each.

    Args:
        task: Name of a classification task whose model has no buffers.
        optimizer: Name of an optimizer that asks for gradients alone.
        seeds: Number of seeds S, at least 2.
        steps: Training steps of each seed.
        rounds: Rounds that count; a short one comes before them.
        jobs: Processes, at most S of them; on a GPU they share it.
        device: Where to train, as for `Machine`.
        on_round: Called after every round that counts.

    Raises:
        ValueError: If the task or the optimizer cannot be batched, a number is too small or the device is not there.
    """
    for name, number, least in (("seeds", seeds, 2), ("steps", steps, 1), ("rounds", rounds, 1), ("jobs", jobs, 1)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    machine = Machine(device)
    device = str(machine.torch_device())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        with machine.fork_random(0):
            # Made here first: what cannot be batched is told before any process is started.
            Batched([Learner(task, optimizer, seed, device) for seed in range(seeds)])
            with Processes(task, optimizer, seeds, min(jobs, seeds), device) as processes:
                return _measure(task, optimizer, seeds, steps, rounds, device, processes, on_round)
    finally:
        torch.set_num_threads(threads)


def _measure(
    task: str,
    optimizer: str,
    seeds: int,
    steps: int,
    rounds: int,
    device: str,
    processes: Processes,
    on_round: Callable[[], None],
) -> SeedsTiming:
    def learners(count: int) -> list[Learner]:
        return [Learner(task, optimizer, seed, device) for seed in range(count)]

    # Learners are made before the clock is started: what is compared are steps.
    ways: dict[str, Way] = {
        "one": lambda steps: partial(Successive(learners(1)).train, steps),
        "successive": lambda steps: partial(Successive(learners(seeds)).train, steps),
        "batched": lambda steps: partial(Batched(learners(seeds)).train, steps),
        "processes": processes.ready,
    }
    for way in ways.values():
        way(WARM_UP_STEPS)()
    times: dict[str, list[float]] = {name: [] for name in ways}
    losses = {}
    watch = Stopwatch(torch.device(device))
    chance = random.Random(0)
    for _ in range(rounds):
        for name in chance.sample(list(ways), len(ways)):
            train = ways[name](steps)
            watch.start()
            losses[name] = train()
            times[name].append(watch.stop()[0])
        on_round()
    difference = float(((losses["batched"] - losses["successive"]) / losses["successive"]).abs().max())
    seconds = {name: tuple(values) for name, values in times.items()}
    return SeedsTiming(
        task,
        optimizer,
        seeds,
        steps,
        optimizers=1 if is_elementwise(optimizer) else seeds,
        **seconds,
        jobs=processes.jobs,
        difference=difference,
        cores=os.cpu_count() or 1,
        device=device,
    )


class Processes:
    """Learners shared among processes, which train theirs one after another.

    The processes are started once, as those of an experiment are, and end with the block.

    Args:
        task: As for `Learner`.
        optimizer: As for `Learner`.
        seeds: Number of seeds.
        jobs: Number of processes.
        device: As for `Learner`.
    """

    def __init__(self, task: str, optimizer: str, seeds: int, jobs: int, device: str = "cpu") -> None:
        self._what, self._seeds, self.jobs = (task, optimizer, device), seeds, jobs
        context = multiprocessing.get_context("spawn")
        self._barrier = context.Barrier(jobs + 1)
        self._pool = ProcessPoolExecutor(jobs, context, initializer=_start_process, initargs=(self._barrier,))

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever waits would wait for ever.
        self._barrier.abort()
        self._pool.shutdown(cancel_futures=True)

    def ready(self, steps: int) -> Callable[[], Tensor]:
        """Let every process make its learners; the function that is returned starts them all, and waits."""
        shares = [range(first, self._seeds, self.jobs) for first in range(self.jobs)]
        # As all wait for each other, each process takes one share.
        parts = [self._pool.submit(_train_share, *self._what, share, steps) for share in shares]
        self._barrier.wait(START_SECONDS)

        def train() -> Tensor:
            self._barrier.wait(START_SECONDS)
            losses = torch.empty(self._seeds, steps)
            for share, part in zip(shares, parts, strict=True):
                losses[share.start :: self.jobs] = torch.tensor(part.result())
            return losses

        return train


# Set once in every process: a barrier travels only at a process's start.
_barrier: Barrier


def _start_process(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()


def _train_share(task: str, optimizer: str, device: str, seeds: Sequence[int], steps: int) -> list[list[float]]:
    machine = Machine(device)
    with machine.fork_random(0):
        learners = Successive([Learner(task, optimizer, seed, device) for seed in seeds])
        if machine.torch_device().type == "cuda":
            torch.cuda.synchronize()  # nothing of the preparation is left to the clock
        for _ in ("all have made their learners", "the clock is started"):
            _barrier.wait(START_SECONDS)
        losses: list[list[float]] = learners.train(steps).tolist()
    return losses


# -- the record


def rows(timings: Sequence[SeedsTiming]) -> list[dict[str, str]]:
    """Return the table as text, a dictionary of columns for each line; costs are in units of one seed."""
    return [
        {
            "task": timing.task,
            "optimizer": timing.optimizer,
            "device": timing.device,
            "seeds": str(timing.seeds),
            "one seed, ms a step": f"{1e3 * statistics.median(timing.one) / timing.steps:.2f}",
            "one after another": f"{timing.cost(timing.successive):.1f}",
            "batched": f"{timing.cost(timing.batched):.1f}",
            "optimizers in the batch": str(timing.optimizers),
            f"{timing.jobs} processes": f"{timing.cost(timing.processes):.1f}",
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
        "element by element, else one for each seed over views of its part. Processes share the seeds among them and "
        "train theirs one after another, as --jobs does; starting them, which an experiment does once, is left out. "
        "On a GPU they share it, and the clock waits until it is done. "
        "The difference between batched and one after another is relative, the largest over all seeds and steps.",
        command=command,
        device=torch.device(first.device),
        details={},
        timings=timings,
        table=markdown_table(rows(timings), text_columns=3),
    )
