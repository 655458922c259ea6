"""How long the trials of an experiment still take, as far as those of their kind that are through can tell."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from multirate.lab.results import Trial, TrialResult


class Pace:
    """Estimates the time left.

    Work is counted in epochs, each weighed by the seconds that an epoch took in finished trials of the same optimizer
    on the same task, else of the same task, else of all. Trials that may stop early are expected to end where their
    like did. What was done so far, in this weight, and the time that it took give the rest: so it does not matter how
    many run at a time, nor how fast the machine is at present. Before the first result every epoch weighs the same, and
    a trial that may stop early counts in full.

    Args:
        trials: All that is to be run.
        known: Results that are there already.
        until: Epoch after which trials are left; None for their ends.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        known: Iterable[TrialResult] = (),
        until: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trials, self._until, self._clock = trials, until, clock
        self._started = clock()
        self._known = list(known)
        self._begun: dict[Trial, int] = {}
        self._epochs: dict[Trial, int] = {}
        self._through: set[Trial] = set()

    def note_epoch(self, trial: Trial, epoch: int) -> None:
        """Note that so many epochs of a trial are done; those of the first call were done before."""
        self._begun.setdefault(trial, epoch)
        self._epochs[trial] = epoch

    def note_through(self, trial: Trial, result: TrialResult | None) -> None:
        """Note that nothing of a trial is left to do, and its result if it has one."""
        self._through.add(trial)
        if result is not None:
            self._known.append(result)

    @property
    def through(self) -> int:
        """How many trials are through."""
        return len(self._through)

    @property
    def share(self) -> float:
        """The part of the work that is done, 0 to 1."""
        done, _, left = self._work()
        return done / (done + left) if done > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The time left in seconds, or None while nothing is known."""
        _, lately, left = self._work()
        return (self._clock() - self._started) * left / lately if lately > 0 else None

    def _work(self) -> tuple[float, float, float]:
        """Return the work done in all, that done since the start, and that left."""
        weights, ends = _Means(self._known, _seconds_of_epoch), _Means(self._known, _epochs_taken)
        done = lately = left = 0.0
        for trial in self._trials:
            weight, epoch = weights.of(trial, 1.0), self._epochs.get(trial, 0)
            end = float(trial.epochs) if trial.patience is None else ends.of(trial, float(trial.epochs))
            end = end if self._until is None else min(end, self._until)
            done += weight * epoch
            lately += weight * (epoch - self._begun.get(trial, 0))
            left += 0.0 if trial in self._through else weight * max(end - epoch, 0.0)
        return done, lately, left


class _Means:
    """Means of a measure over results: of a cell, of its task, of all."""

    def __init__(self, results: Iterable[TrialResult], measure: Callable[[TrialResult], float | None]) -> None:
        values: dict[tuple[str, ...], list[float]] = {}
        for result in results:
            value = measure(result)
            if value is not None:
                for key in ((result.task, result.optimizer), (result.task,), ()):
                    values.setdefault(key, []).append(value)
        self._means: Mapping[tuple[str, ...], float] = {key: statistics.fmean(each) for key, each in values.items()}

    def of(self, trial: Trial, default: float) -> float:
        for key in ((trial.task, trial.optimizer), (trial.task,), ()):
            if key in self._means:
                return self._means[key]
        return default


def _epochs_taken(result: TrialResult) -> float | None:
    if result.diverged:
        return None
    if result.patience is None or result.best_epoch is None:
        return float(result.epochs)
    return float(min(result.epochs, result.best_epoch + result.patience))


def _seconds_of_epoch(result: TrialResult) -> float | None:
    epochs = _epochs_taken(result)
    return result.seconds / epochs if epochs else None
