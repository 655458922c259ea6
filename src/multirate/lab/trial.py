"""One trial: a problem trained by an optimizer from a seed, resumable in its middle."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from multirate.lab.checkpoint import (
    pack_optimizer,
    random_state,
    restore_random_state,
    unpack_optimizer,
    write_checkpoint,
)
from multirate.lab.circumstances import Circumstances, Signals, StoppedError
from multirate.lab.environment import code, hardware, versions
from multirate.lab.evaluation import evaluate, set_mode
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.problems.base import Batch, Problem
from multirate.lab.recording import Recorder
from multirate.lab.results import Outcome, Trial, TrialResult, Unfinished
from multirate.lab.resuming import checkpoint_path, find_checkpoint
from multirate.lab.run_state import RunState, Stopwatch
from multirate.lab.schedules import SCHEDULES
from multirate.lab.stepping import Stepper, forward_context
from multirate.lab.tasks import TASKS
from multirate.lab.variants import Setting

POINTS = 200
"""About how many points a curve over steps has."""

NOISE_OFFSET = 2**31
"""Between the seeds of the two streams of a trial; generators take 32 bits."""


def trial_settings(trial: Trial) -> dict[str, Setting]:
    """Return the optimizer's settings: its defaults, over them the task's protocol, over them the variant's options."""
    variant = trial.variant
    own = OPTIMIZERS[variant.optimizer].settings
    return {**own, **TASKS[trial.task].settings.get(variant.optimizer, {}), **variant.options}


def run_trial(
    trial: Trial, circumstances: Circumstances | None = None, signals: Signals | None = None
) -> Outcome | Unfinished:
    """Train once, on one thread when on the CPU, and return what came of it.

    On the CPU the same trial gives the same numbers wherever it runs and however often it is interrupted; on a GPU some
    of torch's kernels add in no fixed order. Torch's random state is left as it was.
    A checkpoint that lies in the folder is taken up; the last one stays there until its owner has kept the outcome.
    """
    circumstances, signals = circumstances or Circumstances(), signals or Signals()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with circumstances.machine.fork_random(trial.seed):
            return _Run(trial, circumstances, signals).outcome()
    finally:
        torch.set_num_threads(threads)


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
        self.schedule: Any = None
        self.random = random_state(self.device)
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

    def outcome(self) -> Outcome | Unfinished:
        resumed = self._resume()
        self.signals.on_epoch(self.state.epoch)
        if not resumed or self.state.practising:
            self._begin()
        self._place()
        until = self.circumstances.until
        while not self.state.ended and (until is None or self.state.epoch < until):
            self._epoch()
        self._write_checkpoint()
        curves = {**self.state.curves, **self.recorder.curves()}
        if not self.state.ended:
            return Unfinished(self.trial, self.state.epoch, curves)
        return Outcome(self._result(), curves)

    # -- beginning and going on

    def _build_optimizer(self) -> Any:
        entry = OPTIMIZERS[self.trial.variant.optimizer]
        return entry.build(self.problem.model.named_parameters(), self.settings)

    def _begin(self) -> None:
        prepare = getattr(self.optimizer, "prepare", None)
        if prepare is not None:
            self.state.practising = True
            self.watch.start()
            with forward_context(self.circumstances.machine, "graph"):
                prepare(self._practice_problem, self.total_steps)
            self._pause_practice()
            self.state.practising = False
        self.schedule = SCHEDULES[self.trial.variant.schedule].attach(self.optimizer, self.total_steps)
        self.recorder.record(0)
        self._evaluate()

    def _practice_problem(self, seed: int) -> Problem:
        self._look_around(self._pause_practice)
        with self.circumstances.machine.fork_random(seed):
            return TASKS[self.trial.task].problem(self.device, self.trial.fold)

    def _resume(self) -> bool:
        folder, trust = self.circumstances.checkpoints, self.circumstances.trust_checkpoints
        kept = None
        if folder is not None:
            kept = find_checkpoint(
                folder, self.trial, self._identity(), self.device, trust=trust, on_note=self.signals.on_note
            )
        if kept is None:
            return False
        self.problem.model = self.problem.forward = kept["model"]
        self.optimizer = unpack_optimizer(kept["optimizer"], self._build_optimizer)
        self.stepper = Stepper(self.problem, self.optimizer, self.circumstances.machine)
        if not kept["state"].practising:
            self._resume_schedule(kept["schedule"])
        self.recorder = Recorder(self.problem.model, self.optimizer, kept["recorded"])
        self.state = kept["state"]
        written = kept["identity"]
        if written.get("code") != code() or written["versions"] != self._versions():
            self.state.earlier.append((written["revision"], written["versions"]))
        self.order.set_state(kept["order"].cpu())
        self.epoch_order = self.order.get_state()
        self.noise.set_state(kept["noise"].cpu())
        restore_random_state(kept, self.device)
        self.random = random_state(self.device)
        return True

    def _resume_schedule(self, kept: Any) -> None:
        # A schedule that is attached sets its first rate.
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = SCHEDULES[self.trial.variant.schedule].attach(self.optimizer, self.total_steps)
        if self.schedule is not None:
            self.schedule.load_state_dict(kept)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

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
            # What practice draws is its own: training goes on as if there had been none.
            **(self.random if self.state.practising else random_state(self.device)),
        }
        write_checkpoint(checkpoint_path(self.circumstances.checkpoints, self.trial), content)
        self.written = time.monotonic()

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in to be gone on from, and the revision, which says more than a digest."""
        return {
            "trial": str(self.trial),
            "epochs": self.trial.epochs,
            "patience": self.trial.patience,
            "settings": self.settings,
            # Which of several GPUs it was does not matter.
            "machine": self.circumstances.machine.describe(self.device.type),
            "versions": self._versions(),
            "code": code(),
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
        set_mode(self.problem, self.optimizer, training=True)
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
            self._look_around(self._pause)
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
        seconds, cpu_seconds = self.watch.stop()
        if self.compiling:
            # A first step is mostly compilation.
            self.state.preparation_seconds += seconds
        else:
            self.state.seconds += seconds
            self.state.cpu_seconds += cpu_seconds

    def _pause_practice(self) -> None:
        self.state.preparation_seconds += self.watch.stop()[0]

    def _look_around(self, pause: Callable[[], None]) -> None:
        """Write a checkpoint when one is due, and stop when told to."""
        stop = self.signals.should_stop()
        if stop or time.monotonic() - self.written >= self.circumstances.interval:
            pause()
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
        self.signals.on_epoch(self.state.epoch)
        patience = self.trial.patience
        early = patience is not None and self.state.epoch - (self.state.best_epoch or 0) >= patience
        self.state.ended = self.state.diverged or early or self.state.epoch >= self.trial.epochs

    def _evaluate(self) -> None:
        measured = evaluate(self.problem, self.optimizer, self.circumstances.machine, self.trial.seed)
        self.state.note_evaluation(measured)

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
            cpu_seconds=round(state.cpu_seconds, 4),
            settings=self.settings,
            command=self.circumstances.command,
            versions=state.all_versions(self._versions()),
            revision=state.all_revisions(self.circumstances.revision),
            hardware=hardware(self.device),
            fold=self.trial.fold,
            patience=self.trial.patience,
            best_epoch=state.best_epoch,
            preparation_seconds=round(state.preparation_seconds, 4),
            machine=self.circumstances.machine.describe(),
        )
