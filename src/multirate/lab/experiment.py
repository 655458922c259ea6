"""Running the trials of an experiment into its folder: which are still to do, doing them, and showing how far it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from multirate.lab.circumstances import Circumstances
from multirate.lab.environment import revision
from multirate.lab.machine import Machine
from multirate.lab.models.feed_forward import FeedForward
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.pace import Pace
from multirate.lab.progress import TrialProgress
from multirate.lab.results import Outcome, Trial, TrialResult, Unfinished
from multirate.lab.resuming import remove_checkpoints
from multirate.lab.runner import Failure, Listener, Workers, run_trials
from multirate.lab.storage import Storage, StorageError
from multirate.lab.tasks import TASKS
from multirate.lab.trial import trial_settings
from multirate.lab.variants import Settings


@dataclass(frozen=True)
class Experiment:
    """Trials that belong into one folder.

    Attributes:
        trials: What is to be there in the end, in the order of starting.
        command: The command line that asks for it.
        out: The folder.
        study: Name of the study that the trials belong to, if they belong to one.
        workers: Who runs the trials.
        machine: Device and precision.
        interval: Seconds between the checkpoints of a trial.
        trust_checkpoints: Whether to go on from checkpoints that other code or other versions of packages wrote.
        until: Epoch after which every trial is left for now; None trains them to their ends.
        baselines: What the report compares with; none for the study's, or the first optimizer.
    """

    trials: Sequence[Trial]
    command: str
    out: Path
    study: str | None = None
    workers: Workers = field(default_factory=Workers)
    machine: Machine = field(default_factory=Machine)
    interval: float = 60.0
    trust_checkpoints: bool = False
    until: int | None = None
    baselines: Sequence[str] = ()

    @property
    def optimizers(self) -> list[str]:
        """The variants in the order of their first appearance; the first is the baseline."""
        return list(dict.fromkeys(trial.optimizer for trial in self.trials))


def check_settings(trials: Sequence[Trial], machine: Machine) -> None:
    """Construct every optimizer once, so that a wrong option is told before anything is trained.

    Raises:
        ValueError: If an optimizer does not take its settings, or cannot work on such a machine.
    """
    cells = {(trial.task, trial.optimizer): trial for trial in trials}
    for trial in cells.values():
        settings = trial_settings(trial)
        stand_in = FeedForward((2, 2, 2)).named_parameters()
        try:
            optimizer = OPTIMIZERS[trial.variant.optimizer].build(stand_in, settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{trial.optimizer} on {trial.task}: {error}") from error
        if machine.compile and getattr(optimizer, "needs", "gradient") == "graph":
            raise ValueError(
                f"{trial.optimizer} needs second derivatives, which compiled models lack: leave out --compile"
            )


def check_data(trials: Sequence[Trial]) -> None:
    """Load the data of every task once, so that missing data are told before anything is trained.

    Raises:
        DataError: If data are missing or damaged.
        ValueError: If a task has no folds.
    """
    for task, fold in {trial.task: trial.fold for trial in trials}.items():
        with torch.random.fork_rng(devices=[]):
            TASKS[task].problem(torch.device("cpu"), fold)


def run_experiment(experiment: Experiment, console: Console) -> list[Failure]:
    """Run what is not finished yet.

    Returns:
        The trials that failed.

    Raises:
        StorageError: If the folder is in use, unusable, or holds trials of another protocol.
    """
    storage = Storage(experiment.out)
    with storage.locked():
        finished = storage.results()
        _refuse_other_protocols(experiment, finished, storage)
        for result in finished:
            remove_checkpoints(storage.checkpoints, result.trial)
        storage.tidy()
        done = {result.trial for result in finished}
        waiting = [trial for trial in experiment.trials if trial not in done]
        if len(waiting) < len(experiment.trials):
            wanted = set(experiment.trials)
            _say_kept(console, storage, [result for result in finished if result.trial in wanted])
        plan = {"command": experiment.command, "optimizers": experiment.optimizers, "study": experiment.study}
        plan |= {"baselines": list(experiment.baselines)} if experiment.baselines else {}
        if not waiting:
            storage.write_plan(plan)
            return []

        def begin(device: str) -> None:
            _refuse_other_machines(experiment.machine.describe(device), finished, storage)
            storage.write_plan(plan)

        pace = Pace(waiting, finished, experiment.until)
        return _run(waiting, experiment, storage, TrialProgress(console, len(waiting), pace), console, begin)


def _run(
    trials: Sequence[Trial],
    experiment: Experiment,
    storage: Storage,
    progress: TrialProgress,
    console: Console,
    on_device: Callable[[str], None],
) -> list[Failure]:
    def on_outcome(outcome: Outcome | Unfinished) -> None:
        if isinstance(outcome, Unfinished):
            trial = outcome.trial
            storage.add_unfinished(outcome)
            sentence = f"{trial}: left after epoch {outcome.epoch} of {trial.epochs}, to be gone on with"
            progress.tell_through(trial, None, sentence)
        else:
            result = outcome.result
            storage.add(outcome)
            remove_checkpoints(storage.checkpoints, result.trial)
            progress.tell_through(result.trial, result, _sentence(result))

    def on_note(trial: Trial, text: str) -> None:
        console.print(escape(f"{trial} {text}"), style="yellow", highlight=False, soft_wrap=True)

    circumstances = Circumstances(
        experiment.command,
        machine=experiment.machine,
        checkpoints=storage.checkpoints,
        interval=experiment.interval,
        trust_checkpoints=experiment.trust_checkpoints,
        until=experiment.until,
    )
    listener = Listener(progress.tell_epoch, on_outcome, on_note, on_device)
    with progress.shown():
        return run_trials(trials, experiment.workers, circumstances, listener)


def _sentence(result: TrialResult) -> str:
    if result.test_loss is None:
        return f"{result.trial}: diverged after {result.steps} steps"
    accuracy = "" if result.test_accuracy is None else f" accuracy {result.test_accuracy:.2%},"
    return f"{result.trial}: test loss {result.test_loss:.4g},{accuracy} {result.seconds:.1f} s"


def _refuse_other_protocols(experiment: Experiment, finished: Sequence[TrialResult], storage: Storage) -> None:
    """Keep trials of different lengths or settings out of one table."""
    trials = experiment.trials
    epochs = {(trial.task, trial.optimizer): trial.epochs for trial in trials}
    # Where all of a task train equally long, so must those that are there already.
    lengths: dict[str, set[int]] = {}
    for trial in trials:
        lengths.setdefault(trial.task, set()).add(trial.epochs)
    common = {task: min(found) for task, found in lengths.items() if len(found) == 1}
    settings = {(trial.task, trial.optimizer): _plain(trial_settings(trial)) for trial in trials}
    for result in finished:
        cell = result.task, result.optimizer
        wanted = epochs.get(cell, common.get(result.task, result.epochs))
        if result.epochs != wanted:
            raise StorageError(
                f"{storage.folder} holds {result.trial} over {result.epochs} epochs, not {wanted}: "
                f"choose another --out, or --epochs {result.epochs}"
            )
        if _plain(result.settings) != settings.get(cell, _plain(result.settings)):
            raise StorageError(
                f"{storage.folder} holds {result.trial} with settings that are no longer its defaults: "
                "choose another --out"
            )


def _refuse_other_machines(machine: Mapping[str, Any], finished: Sequence[TrialResult], storage: Storage) -> None:
    """Keep trials of different kinds of device or precision out of one table."""
    for result in finished:
        if result.machine and _kind(result.machine) != _kind(machine):
            raise StorageError(
                f"{storage.folder} holds {result.trial} made with {_words(result.machine)}, not {_words(machine)}: "
                "choose another --out, or the same --device, --bf16, --channels-last and --compile"
            )


def _kind(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out which of several devices of a kind it was."""
    return {**machine, "device": str(machine["device"]).partition(":")[0]}


def _words(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in _kind(machine).items())


def _plain(settings: Settings) -> object:
    """Return settings as they come back from a file: JSON knows no tuples."""
    return json.loads(json.dumps(settings))


def _say_kept(console: Console, storage: Storage, kept: Sequence[TrialResult]) -> None:
    trials = "1 finished trial is" if len(kept) == 1 else f"{len(kept)} finished trials are"
    console.print(f"{trials} kept from {escape(str(storage.folder))}.", highlight=False)
    if any(result.revision != revision() for result in kept):
        console.print("Some were made by another revision of the code; a new --out runs them anew.", style="yellow")
