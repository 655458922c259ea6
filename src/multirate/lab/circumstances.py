"""How a trial is run, and how it and whoever runs it hear of each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from multirate.lab.environment import revision
from multirate.lab.machine import Machine


class StoppedError(Exception):
    """The trial was told to stop before its end."""


@dataclass(frozen=True)
class Circumstances:
    """How a trial is run; nothing here may change its result, `machine` and `trust_checkpoints` apart.

    Attributes:
        command: The command that asked for it, for the record.
        revision: Git revision of the code, when known, for the record.
        machine: Device and precision.
        checkpoints: Folder for checkpoints; None keeps none.
        interval: Seconds between checkpoints.
        trust_checkpoints: Whether to go on from checkpoints that other code or other versions of packages wrote.
        until: Epoch after which a trial that is not through by then is left, its checkpoint written; None goes on to
            the end.
    """

    command: str = ""
    revision: str | None = field(default_factory=revision)
    machine: Machine = field(default_factory=Machine)
    checkpoints: Path | None = None
    interval: float = 60.0
    trust_checkpoints: bool = False
    until: int | None = None


@dataclass(frozen=True)
class Signals:
    """How a trial and whoever runs it hear of each other.

    Attributes:
        on_epoch: Called with the number of epochs that are done: when the trial begins, where a checkpoint may hold
            some already, and after every epoch.
        on_note: Called with what should be read before the end: why a checkpoint is not gone on from.
        should_stop: Asked after every step, and before every practice run of an optimizer that has some; True ends the
            trial with `StoppedError`, a checkpoint written.
    """

    on_epoch: Callable[[int], None] = lambda epoch: None
    on_note: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False
