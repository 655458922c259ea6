"""One trial: a model trained on a task by an optimizer from a seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multirate.lab.data import Dataset
from multirate.lab.environment import hardware, revision, versions
from multirate.lab.optimizers import OPTIMIZERS, Setting
from multirate.lab.recording import Recorder, rounded
from multirate.lab.results import Outcome, Trial, TrialResult
from multirate.lab.tasks import TASKS, Task

POINTS = 200
"""About how many points a curve over steps has."""

EVALUATION_BATCH = 1024


class StoppedError(Exception):
    """The trial was told to stop before its end."""


def trial_settings(trial: Trial) -> dict[str, Setting]:
    """Return the optimizer's settings: its own defaults, and over them those of the task's protocol."""
    own = OPTIMIZERS[trial.optimizer].settings
    return {**own, **TASKS[trial.task].settings.get(trial.optimizer, {})}


def run_trial(trial: Trial, *, command: str, on_epoch: Callable[[], None] = lambda: None) -> Outcome:
    """Train once, on one thread, and return what came of it.

    The same trial gives the same numbers wherever it runs, and leaves torch's random state as it was.

    Args:
        trial: What to run.
        command: The command that asked for it, for the record.
        on_epoch: Called once for every epoch, also for those that a diverged run leaves out; may raise
            `StoppedError`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trial.seed)
            return _Run(trial).outcome(command, on_epoch)
    finally:
        torch.set_num_threads(threads)


class _Run:
    """The state of a trial under way."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.task: Task = TASKS[trial.task]
        self.data: Dataset = self.task.data()
        self.model = self.task.model()
        self.settings = trial_settings(trial)
        self.optimizer = OPTIMIZERS[trial.optimizer].build(self.model.named_parameters(), self.settings)
        self.recorder = Recorder(self.model, self.optimizer)
        # The order of the examples has its own stream: it is the same whatever model or optimizer draw.
        self.order = torch.Generator().manual_seed(trial.seed)
        batches = math.ceil(len(self.data.train_targets) / self.task.batch_size)
        self.every = max(1, batches * trial.epochs // POINTS)
        self.steps = 0
        self.seconds = 0.0
        self.window: list[float] = []
        self.curves: dict[str, list[Any]] = {
            name: [] for name in ("step", "train_loss", "epoch", "test_loss", "test_accuracy")
        }

    def outcome(self, command: str, on_epoch: Callable[[], None]) -> Outcome:
        self.recorder.record(0)
        test_loss, test_accuracy = self._evaluate(epoch=0)
        diverged = False
        for epoch in range(1, self.trial.epochs + 1):
            diverged = not self._train_epoch()
            if not diverged:
                test_loss, test_accuracy = self._evaluate(epoch)
            on_epoch()
            if diverged:
                for _ in range(epoch, self.trial.epochs):
                    on_epoch()
                break
        diverged = diverged or not math.isfinite(test_loss)
        result = TrialResult(
            task=self.trial.task,
            optimizer=self.trial.optimizer,
            seed=self.trial.seed,
            epochs=self.trial.epochs,
            steps=self.steps,
            diverged=diverged,
            test_loss=None if diverged else test_loss,
            test_accuracy=None if diverged else test_accuracy,
            seconds=round(self.seconds, 4),
            settings=self.settings,
            command=command,
            versions=versions(),
            revision=revision(),
            hardware=hardware(),
        )
        return Outcome(result, {**self.curves, **self.recorder.curves()})

    def _train_epoch(self) -> bool:
        """Train for an epoch; return whether the loss stayed finite."""
        self._set_mode(training=True)
        for inputs, targets in self._batches():
            started = time.perf_counter()
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(inputs), targets)
            value = float(loss.detach())
            if not math.isfinite(value):
                return False
            loss.backward()
            self.optimizer.step()
            self.seconds += time.perf_counter() - started
            self.steps += 1
            self._note(value)
        return True

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data.train_targets), generator=self.order)
        for indices in order.split(self.task.batch_size):
            yield self.data.train_inputs[indices], self.data.train_targets[indices]

    def _note(self, loss: float) -> None:
        self.window.append(loss)
        if self.steps % self.every == 0:
            self.curves["step"].append(self.steps)
            self.curves["train_loss"].append(rounded(sum(self.window) / len(self.window)))
            self.window.clear()
            self.recorder.record(self.steps)

    def _evaluate(self, epoch: int) -> tuple[float, float]:
        self._set_mode(training=False)
        loss, accuracy = evaluate(self.model, self.data.test_inputs, self.data.test_targets)
        self.curves["epoch"].append(epoch)
        self.curves["test_loss"].append(rounded(loss))
        self.curves["test_accuracy"].append(rounded(accuracy))
        return loss, accuracy

    def _set_mode(self, *, training: bool) -> None:
        self.model.train(training)
        # Optimizers that average iterates swap them with the parameters through modes of their own.
        switch = getattr(self.optimizer, "train" if training else "eval", None)
        if switch is not None:
            switch()


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return the mean loss and the accuracy (0 to 1) of a model in evaluation mode."""
    loss, right = 0.0, 0
    for some_inputs, some_targets in zip(inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
        scores = model(some_inputs)
        loss += float(F.cross_entropy(scores, some_targets, reduction="sum"))
        right += int((scores.argmax(dim=1) == some_targets).sum())
    return loss / len(targets), right / len(targets)
