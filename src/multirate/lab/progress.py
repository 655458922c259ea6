"""Progress bars, and lines that say how much is left where there is no terminal to draw a bar on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from multirate.lab.pace import Pace
from multirate.lab.results import Trial, TrialResult

SILENCE = 600.0
"""Seconds without a line, after which a log without a bar is told how far the trials are."""


@contextmanager
def progress_bar(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar while the block runs; give the function that moves it on by one.

    Where the console is no terminal there is no bar: a log is told by the lines that are printed to it.
    """
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        bar = progress.add_task(what, total=total)
        yield lambda: progress.advance(bar)


class TrialProgress:
    """Shows how far trials are: a bar on a terminal, and a line for every trial that is through.

    Elsewhere than on a terminal a long silence is broken by a line too.

    Args:
        console: Where to.
        trials: How many there are.
        pace: Estimates the time left.
    """

    def __init__(self, console: Console, trials: int, pace: Pace) -> None:
        self._console, self._trials, self._pace = console, trials, pace
        self._told = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while the block runs."""
        with self._progress:
            self._bar = self._progress.add_task(self._counted(), total=1.0, left="")
            yield

    def tell_epoch(self, trial: Trial, epoch: int) -> None:
        """Note that so many epochs of a trial are done."""
        self._pace.note_epoch(trial, epoch)
        self._draw()
        if not self._console.is_terminal and time.monotonic() - self._told >= SILENCE:
            self._print(f"trials are through; {trial}: epoch {epoch} of {trial.epochs}")

    def tell_through(self, trial: Trial, result: TrialResult | None, sentence: str) -> None:
        """Note that nothing of a trial is left to do, and say what came of it."""
        self._pace.note_through(trial, result)
        self._draw()
        self._print(sentence)

    def _draw(self) -> None:
        self._progress.update(
            self._bar, description=self._counted(), completed=self._pace.share, left=self._left() or "?"
        )

    def _print(self, sentence: str) -> None:
        self._told = time.monotonic()
        left = self._left()
        counted = f"{self._counted()}{f', {left}' if left else ''}:"
        self._console.print(f"[dim]{counted}[/dim]", escape(sentence), highlight=False, soft_wrap=True)

    def _counted(self) -> str:
        return f"{self._pace.through}/{self._trials}"

    def _left(self) -> str:
        seconds = self._pace.seconds_left
        if seconds is None or self._pace.through == self._trials:
            return ""
        return f"about {timedelta(seconds=round(seconds))} left"
