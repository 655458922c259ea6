"""One trial: a problem trained by an optimizer from a seed, resumable in its middle."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import update_bn

from multirate.lab.checkpoint import pack_optimizer, read_checkpoint, unpack_optimizer, write_checkpoint
from multirate.lab.environment import hardware, revision, versions
from multirate.lab.machine import Machine
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.problems.base import Batch, Problem
from multirate.lab.recording import Recorder
from multirate.lab.results import Outcome, Trial, TrialResult
from multirate.lab.run_state import RunState, Stopwatch
from multirate.lab.schedules import SCHEDULES
from multirate.lab.stepping import Stepper, forward_context
from multirate.lab.tasks import TASKS
from multirate.lab.variants import Setting

POINTS = 200
"""About how many points a curve over steps has."""


NOISE_OFFSET = 2**31
"""Between the seeds of the two streams of a trial; generators take 32 bits."""

BATCH_NORM_BATCHES = 50
"""Training batches over which batch norm is measured again before averaged weights are evaluated."""


class StoppedError(Exception):
    """The trial was told to stop before its end."""


@dataclass(frozen=True)
class Circumstances:
    """How a trial is run; nothing here may change its result, `machine` apart.

    Attributes:
        command: The command that asked for it, for the record.
        revision: Git revision of the code, when known, for the record.
        machine: Device and precision.
        checkpoints: Folder for checkpoints; None keeps none.
        interval: Seconds between checkpoints.
    """

    command: str = ""
    revision: str | None = field(default_factory=revision)
    machine: Machine = field(default_factory=Machine)
    checkpoints: Path | None = None
    interval: float = 60.0


@dataclass(frozen=True)
class Signals:
    """How a trial and whoever runs it hear of each other.

    Attributes:
        on_epoch: Called once for every epoch, also for those that a diverged run leaves out and those that a checkpoint
            holds already.
        should_stop: Asked after every step; True ends the trial with `StoppedError`, a checkpoint written.
    """

    on_epoch: Callable[[], None] = lambda: None
    should_stop: Callable[[], bool] = lambda: False


def trial_settings(trial: Trial) -> dict[str, Setting]:
    """Return the optimizer's settings: its defaults, over them the task's protocol, over them the variant's options."""
    variant = trial.variant
    own = OPTIMIZERS[variant.optimizer].settings
    return {**own, **TASKS[trial.task].settings.get(variant.optimizer, {}), **variant.options}


def checkpoint_path(folder: Path, trial: Trial) -> Path:
    """Return where a trial keeps its checkpoint."""
    return folder / f"{trial.stem}.pt"


def run_trial(trial: Trial, circumstances: Circumstances | None = None, signals: Signals | None = None) -> Outcome:
    """Train once, on one thread when on the CPU, and return what came of it.

    On the CPU the same trial gives the same numbers wherever it runs and however often it is interrupted; on a GPU some
    of torch's kernels add in no fixed order. Torch's random state is left as it was.
    A checkpoint that lies in the folder is taken up; the last one stays there until its owner has kept the outcome.
    """
    circumstances, signals = circumstances or Circumstances(), signals or Signals()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(_devices(circumstances.machine)):
            torch.manual_seed(trial.seed)
            return _Run(trial, circumstances, signals).outcome()
    finally:
        torch.set_num_threads(threads)


def _devices(machine: Machine) -> list[torch.device]:
    device = machine.torch_device()
    return [device] if device.type == "cuda" else []


class _Run:
    """The state of a trial under way."""

    def __init__(self, trial: Trial, circumstances: Circumstances, signals: Signals) -> None:
        self.trial, self.circumstances, self.signals = trial, circumstances, signals
        self.device = circumstances.machine.torch_device()
        self.problem: Problem = TASKS[trial.task].problem(self.device, trial.fold)
        self.settings = trial_settings(trial)
        self.total_steps = self.problem.steps_per_epoch * trial.epochs
        self.every = max(1, self.total_steps // POINTS)
        self.optimizer = self._build_optimizer()
        # Examples and augmentation have streams of their own: they are the same whatever model or optimizer draw.
        self.order = torch.Generator().manual_seed(trial.seed)
        self.epoch_order = self.order.get_state()
        self.noise = torch.Generator().manual_seed(trial.seed + NOISE_OFFSET)
        self.stepper = Stepper(self.problem, self.optimizer, circumstances.machine)
        self.watch = Stopwatch(self.device)
        self.state = RunState()
        self.recorder = Recorder(self.problem.model, self.optimizer)
        self.written = time.monotonic()
        self.compiling = circumstances.machine.compile

    def outcome(self) -> Outcome:
        if not self._resume():
            self._begin()
        self._place()
        while not self.state.ended:
            self._epoch()
        self._write_checkpoint()
        return Outcome(self._result(), {**self.state.curves, **self.recorder.curves()})

    # -- beginning and going on

    def _build_optimizer(self) -> Any:
        entry = OPTIMIZERS[self.trial.variant.optimizer]
        return entry.build(self.problem.model.named_parameters(), self.settings)

    def _begin(self) -> None:
        prepare = getattr(self.optimizer, "prepare", None)
        if prepare is not None:
            started = time.perf_counter()
            with forward_context(self.circumstances.machine, "graph"):
                prepare(self._practice_problem, self.total_steps)
            self.state.preparation_seconds = time.perf_counter() - started
        self.schedule = SCHEDULES[self.trial.variant.schedule].attach(self.optimizer, self.total_steps)
        self.recorder.record(0)
        self._evaluate()

    def _practice_problem(self, seed: int) -> Problem:
        with torch.random.fork_rng(_devices(self.circumstances.machine)):
            torch.manual_seed(seed)
            return TASKS[self.trial.task].problem(self.device, self.trial.fold)

    def _resume(self) -> bool:
        folder = self.circumstances.checkpoints
        kept = None if folder is None else read_checkpoint(checkpoint_path(folder, self.trial))
        if kept is None or kept["identity"] != self._identity():
            return False
        self.problem.model = self.problem.forward = kept["model"]
        self.optimizer = unpack_optimizer(kept["optimizer"], self._build_optimizer)
        self.stepper = Stepper(self.problem, self.optimizer, self.circumstances.machine)
        # A schedule that is attached sets its first rate.
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = SCHEDULES[self.trial.variant.schedule].attach(self.optimizer, self.total_steps)
        if self.schedule is not None:
            self.schedule.load_state_dict(kept["schedule"])
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self.recorder = Recorder(self.problem.model, self.optimizer, kept["recorded"])
        self.state = kept["state"]
        self.order.set_state(kept["order"].cpu())
        self.noise.set_state(kept["noise"].cpu())
        torch.set_rng_state(kept["random"].cpu())
        if kept["cuda_random"] is not None:
            torch.cuda.set_rng_state(kept["cuda_random"].cpu(), self.device)
        for _ in range(self.state.epoch):
            self.signals.on_epoch()
        return True

    def _write_checkpoint(self) -> None:
        if self.circumstances.checkpoints is None:
            return
        content = {
            "identity": self._identity(),
            "model": self.problem.model,
            "optimizer": pack_optimizer(self.optimizer),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "recorded": self.recorder.curves(),
            "state": self.state,
            "order": self.epoch_order,
            "noise": self.noise.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        write_checkpoint(checkpoint_path(self.circumstances.checkpoints, self.trial), content)
        self.written = time.monotonic()

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in to be gone on from."""
        return {
            "trial": str(self.trial),
            "epochs": self.trial.epochs,
            "patience": self.trial.patience,
            "settings": self.settings,
            "machine": self.circumstances.machine.describe(),
            "versions": self._versions(),
            "revision": self.circumstances.revision,
        }

    def _versions(self) -> dict[str, str]:
        return {**versions(), **OPTIMIZERS[self.trial.variant.optimizer].version()}

    def _place(self) -> None:
        machine = self.circumstances.machine
        if machine.channels_last:
            self.problem.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.problem.forward = self.problem.model
        if machine.compile:
            self.problem.forward = torch.compile(self.problem.model)

    # -- training

    def _epoch(self) -> None:
        self.epoch_order = self.order.get_state()
        self._set_mode(training=True)
        self.watch.start()
        for batch in self.problem.batches(self.order, self.noise, first=self.state.batch):
            finite = self._step(batch)
            if self.compiling:
                self._pause()
                self.watch.start()
                self.compiling = False
            if not finite:
                self.state.diverged = True
                break
            self.state.batch += 1
            self._look_around()
        self._pause()
        self._end_epoch()

    def _step(self, batch: Batch) -> bool:
        """Take a step; return whether the loss was finite, as far as that is known yet."""
        loss, taken = self.stepper.step(batch)
        self.state.window.append(loss)
        if not taken:
            return False
        if self.schedule is not None:
            self.schedule.step()
        self.state.steps += 1
        return self.state.steps % self.every != 0 or self._note()

    def _note(self) -> bool:
        """Write down the last losses and the rates; return whether the losses were finite."""
        self._pause()
        finite = self.state.note_losses()
        if finite:
            self.recorder.record(self.state.steps)
        self.watch.start()
        return finite

    def _pause(self) -> None:
        if self.compiling:
            # A first step is mostly compilation.
            self.state.preparation_seconds += self.watch.stop()
        else:
            self.state.seconds += self.watch.stop()

    def _look_around(self) -> None:
        """Write a checkpoint when one is due, and stop when told to."""
        stop = self.signals.should_stop()
        if stop or time.monotonic() - self.written >= self.circumstances.interval:
            self._pause()
            self._write_checkpoint()
            self.watch.start()
        if stop:
            raise StoppedError

    def _end_epoch(self) -> None:
        self.state.epoch += 1
        self.state.batch = 0
        self.epoch_order = self.order.get_state()
        if not self.state.diverged:
            self._evaluate()
        self.signals.on_epoch()
        patience = self.trial.patience
        early = patience is not None and self.state.epoch - (self.state.best_epoch or 0) >= patience
        self.state.ended = self.state.diverged or early or self.state.epoch >= self.trial.epochs
        if self.state.ended:
            for _ in range(self.state.epoch, self.trial.epochs):
                self.signals.on_epoch()

    @torch.no_grad()
    def _evaluate(self) -> None:
        self._set_mode(training=False)
        if callable(getattr(self.optimizer, "eval", None)):
            self._measure_batch_norm()
        with forward_context(self.circumstances.machine):
            measured = self.problem.evaluate()
        self.state.note_evaluation(measured)

    def _measure_batch_norm(self) -> None:
        """Measure batch norm's statistics at averaged weights: the running ones belong to those trained at."""
        examples = torch.Generator().manual_seed(self.trial.seed)
        noise = torch.Generator().manual_seed(self.trial.seed)
        batches = itertools.islice(self.problem.batches(examples, noise), BATCH_NORM_BATCHES)
        # Without batch norm it returns at once.
        update_bn((batch[0] for batch in batches if batch), self.problem.model)

    def _set_mode(self, *, training: bool) -> None:
        self.problem.model.train(training)
        # Optimizers that average iterates swap them with the parameters through modes of their own.
        switch = getattr(self.optimizer, "train" if training else "eval", None)
        if switch is not None:
            switch()

    def _result(self) -> TrialResult:
        state = self.state
        return TrialResult(
            task=self.trial.task,
            optimizer=self.trial.optimizer,
            seed=self.trial.seed,
            epochs=self.trial.epochs,
            steps=state.steps,
            diverged=state.diverged,
            test_loss=None if state.diverged else state.measured["loss"],
            test_accuracy=None if state.diverged else state.measured.get("accuracy"),
            seconds=round(state.seconds, 4),
            settings=self.settings,
            command=self.circumstances.command,
            versions=self._versions(),
            revision=self.circumstances.revision,
            hardware=hardware(self.device),
            fold=self.trial.fold,
            patience=self.trial.patience,
            best_epoch=state.best_epoch,
            preparation_seconds=round(state.preparation_seconds, 4),
            machine=self.circumstances.machine.describe(),
        )
