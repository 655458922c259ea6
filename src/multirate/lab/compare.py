"""`multirate compare`: which trials are still to run, running them, and showing how far it is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from multirate.lab.environment import revision
from multirate.lab.optimizers import Settings
from multirate.lab.progress import progress_bar
from multirate.lab.results import Outcome, Trial, TrialResult
from multirate.lab.runner import Failure, Listener, run_trials
from multirate.lab.storage import Storage, StorageError
from multirate.lab.tasks import TASKS
from multirate.lab.trial import trial_settings


@dataclass(frozen=True)
class Comparison:
    """What `multirate compare` was asked for.

    Attributes:
        tasks: Names of tasks.
        optimizers: Names of optimizers; the first is the baseline.
        seeds: How many seeds: 0, 1, ….
        epochs: Epochs of every trial, or None for the task's own.
        jobs: Number of processes.
        out: The folder of the experiment.
    """

    tasks: Sequence[str]
    optimizers: Sequence[str]
    seeds: int
    epochs: int | None
    jobs: int
    out: Path

    @property
    def command(self) -> str:
        """The command line that asks for the same."""
        words = ["multirate", "compare", "--task", ",".join(self.tasks)]
        words += ["--optimizers", ",".join(self.optimizers), "--seeds", str(self.seeds)]
        words += ["--epochs", str(self.epochs)] if self.epochs is not None else []
        return shlex.join([*words, "--jobs", str(self.jobs), "--out", str(self.out)])

    def trials(self) -> list[Trial]:
        """Return all trials, every optimizer's first seed before any second one."""
        return [
            Trial(task, optimizer, seed, TASKS[task].epochs if self.epochs is None else self.epochs)
            for task in self.tasks
            for seed in range(self.seeds)
            for optimizer in self.optimizers
        ]


def run_comparison(comparison: Comparison, console: Console) -> list[Failure]:
    """Run what is not finished yet.

    Returns:
        The trials that failed.

    Raises:
        StorageError: If the folder is in use, unusable, or holds trials of another protocol.
    """
    storage = Storage(comparison.out)
    with storage.locked():
        finished = storage.results()
        trials = comparison.trials()
        _refuse_other_protocols(trials, finished, storage)
        done = {result.trial for result in finished}
        waiting = [trial for trial in trials if trial not in done]
        if len(waiting) < len(trials):
            _say_kept(console, storage, [result for result in finished if result.trial in set(trials)])
        storage.write_plan({"command": comparison.command, "optimizers": list(comparison.optimizers)})
        return _run(waiting, comparison, storage, console)


def _run(trials: Sequence[Trial], comparison: Comparison, storage: Storage, console: Console) -> list[Failure]:
    finished = 0

    def on_outcome(outcome: Outcome) -> None:
        nonlocal finished
        storage.add(outcome)
        finished += 1
        counted = f"[dim]{finished}/{len(trials)}[/dim]"
        console.print(counted, escape(_sentence(outcome.result)), highlight=False)

    with progress_bar(console, "epochs", total=sum(trial.epochs for trial in trials)) as on_epoch:
        listener = Listener(on_epoch, on_outcome)
        return run_trials(trials, jobs=comparison.jobs, command=comparison.command, listener=listener)


def _sentence(result: TrialResult) -> str:
    if result.test_loss is None or result.test_accuracy is None:
        return f"{result.trial}: diverged after {result.steps} steps"
    return (
        f"{result.trial}: test loss {result.test_loss:.4f}, accuracy {result.test_accuracy:.2%}, {result.seconds:.1f} s"
    )


def _refuse_other_protocols(trials: Sequence[Trial], finished: Sequence[TrialResult], storage: Storage) -> None:
    """Keep trials of different lengths or settings out of one table."""
    epochs = {trial.task: trial.epochs for trial in trials}
    settings = {(trial.task, trial.optimizer): _plain(trial_settings(trial)) for trial in trials}
    for result in finished:
        wanted = epochs.get(result.task, result.epochs)
        if result.epochs != wanted:
            raise StorageError(
                f"{storage.folder} holds {result.trial} over {result.epochs} epochs, not {wanted}: "
                f"choose another --out, or --epochs {result.epochs}"
            )
        if _plain(result.settings) != settings.get((result.task, result.optimizer), _plain(result.settings)):
            raise StorageError(
                f"{storage.folder} holds {result.trial} with settings that are no longer its defaults: "
                "choose another --out"
            )


def _plain(settings: Settings) -> object:
    """Return settings as they come back from a file: JSON knows no tuples."""
    return json.loads(json.dumps(settings))


def _say_kept(console: Console, storage: Storage, kept: Sequence[TrialResult]) -> None:
    trials = "1 finished trial is" if len(kept) == 1 else f"{len(kept)} finished trials are"
    console.print(f"{trials} kept from {escape(str(storage.folder))}.", highlight=False)
    if any(result.revision != revision() for result in kept):
        console.print("Some were made by another revision of the code; a new --out runs them anew.", style="yellow")
