"""How far a trial has come: the part of a checkpoint that is neither model nor optimizer."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from multirate.lab.recording import rounded

CURVES = ("step", "train_loss", "epoch", "epoch_step", "epoch_seconds", "test_loss", "test_accuracy")


@dataclass
class RunState:
    """Counters and curves of a trial.

    Attributes:
        epoch: Epochs finished.
        batch: Batches of the present epoch that are done.
        steps: Steps taken.
        seconds: Time spent training.
        cpu_seconds: Processor time of this process meanwhile.
        preparation_seconds: Time that the optimizer practised before the first step, or that compiling took.
        practising: Whether the optimizer is still at its practice before the first step.
        diverged: Whether a loss was not finite.
        ended: Whether nothing is left to do.
        measured: The last evaluation.
        best_epoch: The epoch, 1 or later, with the lowest evaluated loss.
        window: Training losses since the last record.
        curves: Everything recorded so far, by name.
        earlier: Revision and versions of the code that the trial began under, when it went on under another.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    preparation_seconds: float = 0.0
    practising: bool = False
    diverged: bool = False
    ended: bool = False
    measured: Mapping[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    window: list[Tensor] = field(default_factory=list)
    curves: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in CURVES})
    earlier: list[tuple[str | None, Mapping[str, str]]] = field(default_factory=list)
    _lowest: float = math.inf

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The checkpoint of an earlier version lacks what was added since.
        self.__dict__.update({**RunState().__dict__, **state})

    def note_losses(self) -> bool:
        """Add the mean training loss since the last record to the curves; return whether it was finite."""
        mean = float(torch.stack(self.window).double().mean())
        self.window.clear()
        if math.isfinite(mean):
            self.curves["step"].append(self.steps)
            self.curves["train_loss"].append(rounded(mean))
        return math.isfinite(mean)

    def note_evaluation(self, measured: Mapping[str, float]) -> None:
        """Add an evaluation, made after `epoch` epochs, to the curves."""
        self.measured = measured
        self.diverged = not math.isfinite(measured["loss"])
        accuracy = measured.get("accuracy")
        point = {
            "epoch": self.epoch,
            "epoch_step": self.steps,
            "epoch_seconds": round(self.seconds, 4),
            "test_loss": rounded(measured["loss"]),
            "test_accuracy": None if accuracy is None else rounded(accuracy),
        }
        for name, value in point.items():
            self.curves[name].append(value)
        if self.epoch > 0 and measured["loss"] < self._lowest:
            self._lowest, self.best_epoch = measured["loss"], self.epoch

    def all_revisions(self, present: str | None) -> str | None:
        """Return the revisions that the trial ran under, in words when there are several."""
        every = [*(revision for revision, _ in self.earlier), present]
        return present if set(every) == {present} else _in_turn([str(revision) for revision in every])

    def all_versions(self, present: Mapping[str, str]) -> dict[str, str]:
        """Return the versions that the trial ran under, in words where there are several."""
        every = [*(versions for _, versions in self.earlier), present]
        names = dict.fromkeys(name for versions in every for name in versions)
        return {name: _in_turn([versions.get(name, "absent") for versions in every]) for name in names}


def _in_turn(words: Sequence[str]) -> str:
    """Join words that follow each other, without repetitions."""
    return " then ".join(word for word, _ in itertools.groupby(words))


class Stopwatch:
    """Measures the time between `start` and `stop`; on a GPU it waits for what was queued.

    Args:
        device: Where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = 0.0, 0.0

    def start(self) -> None:
        """Begin to count."""
        self._started = self._now()

    def stop(self) -> tuple[float, float]:
        """Return since `start` the seconds, and the processor seconds of all threads of this process."""
        seconds, cpu_seconds = self._now()
        return seconds - self._started[0], cpu_seconds - self._started[1]

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter(), time.process_time()
