"""The folder of an experiment: results.jsonl, a file of curves for every trial, and checkpoints of those under way.

Nothing is ever half-written: whole files are put in place by a rename, and a row is one flushed line,
appended after the trial's curves are safe.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from multirate.lab.results import Outcome, Trial, TrialResult, Unfinished

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


class StorageError(Exception):
    """The folder cannot be read or written; the message says where and what to do."""


_TEMPORARY = ".half-written-"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes private files; results are for everyone whom the folder is for.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Storage:
    """Reads and writes an experiment's folder.

    Args:
        folder: The folder; it is made when something is written.
    """

    ROWS = "results.jsonl"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows_path = folder / self.ROWS
        self.checkpoints = folder / "checkpoints"
        self._unfinished = folder / "unfinished"
        self._plan_path = folder / "experiment.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second writer.

        Raises:
            StorageError: If another process holds it, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stream = (self.folder / ".lock").open("w")
        except OSError as error:
            raise StorageError(f"cannot write to {self.folder}: {error.strerror}") from error
        with stream:
            if fcntl is not None:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise StorageError(
                        f"another run is writing to {self.folder}: wait for it, or choose another folder"
                    ) from error
            yield

    def results(self) -> list[TrialResult]:
        """Return the finished trials in the order in which they finished.

        A last line without an end was cut off by a crash: it is passed over, and the next `add` removes it.

        Raises:
            StorageError: If a line cannot be read.
        """
        results = []
        for number, line in enumerate(self._complete_lines(), start=1):
            try:
                results.append(TrialResult.from_json(line))
            except ValueError as error:
                raise StorageError(
                    f"{self.rows_path}, line {number}: {error}. Remove the line or choose another folder."
                ) from error
        return results

    def tidy(self) -> None:
        """Remove what a killed process left half-written; only while the folder is locked."""
        for path in self.folder.rglob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def add(self, outcome: Outcome) -> None:
        """Keep a finished trial: first its curves, then its row.

        Raises:
            StorageError: If it cannot be written.
        """
        try:
            curves = json.dumps(outcome.curves, allow_nan=False)
            write_whole(self._curves_path(outcome.result.trial), curves)
            self._append(outcome.result.to_json() + "\n")
            self._unfinished_path(outcome.result.trial).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write to {self.folder}: {error.strerror}") from error

    def add_unfinished(self, left: Unfinished) -> None:
        """Keep the curves so far of a trial that is to be gone on with, until its outcome takes their place.

        Raises:
            StorageError: If it cannot be written.
        """
        try:
            write_whole(self._unfinished_path(left.trial), json.dumps(dataclasses.asdict(left), allow_nan=False))
        except OSError as error:
            raise StorageError(f"cannot write to {self.folder}: {error.strerror}") from error

    def unfinished(self) -> list[Unfinished]:
        """Return the trials that were left in their middle and have no result yet.

        Raises:
            StorageError: If one cannot be read.
        """
        finished = {result.trial for result in self.results()}
        found = []
        for path in sorted(self._unfinished.glob("*.json")):
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                left = Unfinished(Trial(**kept["trial"]), kept["epoch"], kept["curves"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StorageError(
                    f"cannot read {path}: {error!r}. Remove it; its trial is not lost by that."
                ) from error
            # A process may have been killed between a row and the removal of what it replaces.
            found += [left] if left.trial not in finished else []
        return found

    def curves(self, trial: Trial) -> dict[str, Any]:
        """Return the curves of a finished trial.

        Raises:
            StorageError: If they are missing or damaged.
        """
        path = self._curves_path(trial)
        try:
            curves: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(
                f"cannot read the curves of {trial} in {path}: {error}. "
                f"Put the file back, or remove the trial's line from {self.rows_path} to run it anew."
            ) from error
        return curves

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Keep what was asked for last: it gives reports their order and their baseline."""
        write_whole(self._plan_path, json.dumps(plan, indent=2) + "\n")

    def plan(self) -> dict[str, Any]:
        """Return what was asked for last, or an empty dictionary."""
        try:
            plan: dict[str, Any] = json.loads(self._plan_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return plan

    def _curves_path(self, trial: Trial) -> Path:
        return self.folder / "trials" / f"{trial.stem}.json"

    def _unfinished_path(self, trial: Trial) -> Path:
        return self._unfinished / f"{trial.stem}.json"

    def _complete_lines(self) -> list[str]:
        try:
            # A line may be cut off in the middle of a character.
            whole, _, _ = self.rows_path.read_bytes().rpartition(b"\n")
            return whole.decode().split("\n") if whole else []
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read {self.rows_path}: {error}") from error

    def _append(self, line: str) -> None:
        with self.rows_path.open("a+b") as stream:
            stream.seek(0)
            # A line that a crash cut off must not swallow the one that follows.
            stream.truncate(stream.read().rfind(b"\n") + 1)
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
