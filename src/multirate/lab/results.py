"""What one finished trial says, and the one JSON line that keeps it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multirate.lab.registry import check_name


@dataclass(frozen=True)
class Trial:
    """One training run: which task, which optimizer, which seed, how long."""

    task: str
    optimizer: str
    seed: int
    epochs: int

    @property
    def stem(self) -> str:
        """The name of the trial's files, without a folder or an ending."""
        return f"{self.task.replace('/', '-')}--{self.optimizer}--{self.seed}"

    def __str__(self) -> str:
        return f"{self.task} {self.optimizer} seed {self.seed}"


@dataclass(frozen=True)
class TrialResult:
    """A row of results.jsonl.

    Attributes:
        task: Name of the task.
        optimizer: Name of the optimizer.
        seed: Seed of the initial weights and of the order of the examples.
        epochs: Epochs asked for.
        steps: Steps taken: fewer than asked for when the run diverged.
        diverged: Whether the loss became infinite or not a number.
        test_loss: Mean loss on the test set after the last epoch; None when diverged.
        test_accuracy: Fraction of the test set classified rightly after the last epoch; None when diverged.
        seconds: Time spent in training steps; evaluation and recording are left out.
        settings: Keyword arguments that the optimizer was built with.
        command: The command that made the row.
        versions: Of Python, torch and this package.
        revision: Git revision of the code, when known.
        hardware: Processor, cores and accelerator.
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

    @property
    def trial(self) -> Trial:
        """The trial that this is the result of."""
        return Trial(self.task, self.optimizer, self.seed, self.epochs)

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
        fields = {field.name for field in dataclasses.fields(cls)}
        if missing := sorted(fields - row.keys()):
            raise ValueError(f"missing {', '.join(missing)}")
        # Names become file names, and the line may come from anywhere.
        check_name("task", row["task"])
        check_name("optimizer", row["optimizer"])
        return cls(**{name: row[name] for name in fields})


@dataclass(frozen=True)
class Outcome:
    """A finished trial: its row, and its curves over time as plain JSON values."""

    result: TrialResult
    curves: Mapping[str, Any]
