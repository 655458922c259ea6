"""What one finished trial says, and the one JSON line that keeps it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multirate.lab.registry import check_name
from multirate.lab.variants import Variant


@dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
        task: Name of the task.
        optimizer: The variant of an optimizer, as `str(Variant)` writes it.
        seed: Seed of the initial weights, the order of the examples and the augmentation.
        epochs: Passes over the training set; the most there may be, with `patience`.
        fold: Train without this fifth (0 to 4) of the training set and evaluate on it, instead of on the test set.
        patience: Stop when the evaluated loss has not fallen for so many epochs.
    """

    task: str
    optimizer: str
    seed: int
    epochs: int
    fold: int | None = None
    patience: int | None = None

    @property
    def variant(self) -> Variant:
        """The optimizer with its options and schedule."""
        return Variant.parse(self.optimizer)

    @property
    def stem(self) -> str:
        """The name of the trial's files, without a folder or an ending."""
        optimizer = self.optimizer.replace("/", ",").replace(":", "_")
        fold = "" if self.fold is None else f"--fold{self.fold}"
        return f"{self.task.replace('/', '-')}--{optimizer}--{self.seed}{fold}"

    def __str__(self) -> str:
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"{self.task} {self.optimizer} seed {self.seed}{fold}"


@dataclass(frozen=True)
class TrialResult:
    """A row of results.jsonl.

    Attributes:
        task: Name of the task.
        optimizer: The variant of an optimizer.
        seed: Seed of the initial weights and of the order of the examples.
        epochs: Epochs asked for.
        steps: Steps taken: fewer than asked for when the run diverged or stopped early.
        diverged: Whether the loss became infinite or not a number.
        test_loss: Mean loss on the test set (with `fold`, on the fold) after the last epoch; None when diverged.
        test_accuracy: Fraction classified rightly after the last epoch; None when diverged or without a meaning.
        seconds: Time spent in training steps; evaluation, recording and checkpoints are left out.
        settings: Keyword arguments that the optimizer was built with.
        command: The command that made the row.
        versions: Of Python, torch, this package, NumPy, SciPy, Numba where it is there, and the package that the
            optimizer comes from. Rows of earlier versions of this package lack NumPy, SciPy and Numba.
        revision: Git revision of the code, when known; like versions, both with `then` between them where a trial was
            told to go on under another.
        hardware: Processor, cores and accelerator.
        fold: The fifth of the training set that was held out.
        patience: Epochs without a lower loss that end the run.
        best_epoch: The epoch, 1 or later, with the lowest evaluated loss.
        preparation_seconds: Time that the optimizer practised before the first step, and of the first step of a
            compiled model.
        machine: Device and precision.
        cpu_seconds: Processor time of the training steps. On a CPU a trial has one thread: where this is far below
            `seconds`, other work held the processor, and the time is worth no comparison. None in rows of earlier
            versions of this package.
    """

    task: str
    optimizer: str
    seed: int
    epochs: int
    steps: int
    diverged: bool
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
    settings: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    revision: str | None
    hardware: str
    fold: int | None = None
    patience: int | None = None
    best_epoch: int | None = None
    preparation_seconds: float = 0.0
    machine: Mapping[str, Any] = field(default_factory=dict)
    cpu_seconds: float | None = None

    @property
    def trial(self) -> Trial:
        """The trial that this is the result of."""
        return Trial(self.task, self.optimizer, self.seed, self.epochs, self.fold, self.patience)

    def to_json(self) -> str:
        """Return the row as one line of JSON, without the line's end."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> TrialResult:
        """Read a row; fields of a later version are passed over.

        Raises:
            ValueError: If the line is no JSON object, lacks a field, or has a name no registry would take.
        """
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("expected a JSON object")
        fields = {each.name: each for each in dataclasses.fields(cls)}
        required = {name for name, each in fields.items() if _is_required(each)}
        if missing := sorted(required - row.keys()):
            raise ValueError(f"missing {', '.join(missing)}")
        # Names become file names, and the line may come from anywhere.
        check_name("task", row["task"])
        Variant.parse(row["optimizer"])
        return cls(**{name: row[name] for name in fields if name in row})


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


@dataclass(frozen=True)
class Unfinished:
    """A trial that was left in its middle, to be gone on with from its checkpoint: no result.

    Attributes:
        trial: The trial.
        epoch: How many of its epochs are done.
        curves: Its curves so far, as those of an `Outcome`.
    """

    trial: Trial
    epoch: int
    curves: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A finished trial: its row, and its curves over time as plain JSON values."""

    result: TrialResult
    curves: Mapping[str, Any]
