"""From trials to finished results, with the messages a command gives on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich.markup import escape

from multirate.lab.cluster import ClusterError
from multirate.lab.commands.options import Resources
from multirate.lab.data.sources import DataError
from multirate.lab.experiment import Experiment, check_data, check_settings, run_experiment
from multirate.lab.reporting.report import make_report
from multirate.lab.results import Trial
from multirate.lab.storage import Storage, StorageError
from multirate.lab.tables import open_console, result_table, yardstick_tables


def run_and_report(
    trials: Sequence[Trial],
    command: str,
    out: Path,
    resources: Resources,
    study: str | None = None,
    baselines: Sequence[str] = (),
) -> None:
    """Run trials into a folder and show what came of them.

    Args:
        trials: What is to be there in the end.
        command: The command line that asks for it.
        out: The folder.
        resources: Who runs them, on what.
        study: Name of the study that they belong to.
        baselines: What to compare with; without any, the study's, or the first optimizer.

    Raises:
        click.ClickException: If an optimizer does not take its options, trials failed or the folder is unusable.
    """
    _run(trials, command, out, resources, show_report, study, baselines)


def run_only(trials: Sequence[Trial], command: str, out: Path, resources: Resources) -> None:
    """Run trials into a folder whose report nobody waits for.

    Raises:
        click.ClickException: As `run_and_report`.
    """
    _run(trials, command, out, resources, lambda folder: None)


def _run(
    trials: Sequence[Trial],
    command: str,
    out: Path,
    resources: Resources,
    show: Callable[[Path], None],
    study: str | None = None,
    baselines: Sequence[str] = (),
) -> None:
    console = open_console()
    try:
        check_settings(trials, resources.machine)
        if resources.workers.ray is None:  # the nodes of a cluster have their own data
            check_data(trials)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except DataError as error:
        raise click.ClickException(str(error)) from error
    experiment = Experiment(
        trials,
        command,
        out,
        study,
        workers=resources.workers,
        machine=resources.machine,
        interval=resources.interval,
        trust_checkpoints=resources.trust_checkpoints,
        baselines=baselines,
    )
    first = resources.first
    try:
        if first is not None and any(trial.epochs > first for trial in trials):
            run_experiment(replace(experiment, until=first), console)
            _show(out, show)
        failures = run_experiment(experiment, console)
        _show(out, show)
    except (StorageError, ClusterError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print("Interrupted. What was done is kept: the same command goes on from there.")
        raise
    if failures:
        names = ", ".join(str(failure.trial) for failure in failures)
        raise click.ClickException(f"{len(failures)} failed: {names}\n\n{failures[0].details}")


def _show(out: Path, show: Callable[[Path], None]) -> None:
    storage = Storage(out)
    if storage.results() or storage.unfinished():
        show(out)


def show_report(folder: Path, baselines: Sequence[str] = ()) -> None:
    """Make the report of a folder and print its tables.

    Raises:
        StorageError: If there is nothing to report, a baseline is not there, or something cannot be read or written.
    """
    report = make_report(Storage(folder), baselines)
    console = open_console()
    # The tables by task of a yardstick have hundreds of lines; they are in its files.
    drawn = (
        [
            *(result_table(table, task) for task, tables in report.tables.items() for table in tables),
            *(result_table(table, "all tasks") for table in report.overall),
        ]
        if report.yardstick is None
        else yardstick_tables(report.yardstick)
    )
    for table in drawn:
        console.print(table)
    show_paths([*report.pictures, *report.texts, report.page])


def show_paths(paths: Sequence[Path]) -> None:
    """Print paths on a line each, however long, so that they can be copied."""
    console = open_console()
    for path in paths:
        console.print(escape(str(path)), soft_wrap=True, highlight=False)
