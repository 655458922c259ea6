"""The commands and their options."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from rich.markup import escape

from multirate.lab.bench import CANDIDATES, WARM_UPS, measure, write
from multirate.lab.compare import Comparison, run_comparison
from multirate.lab.environment import versions
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.progress import progress_bar
from multirate.lab.registry import Registry
from multirate.lab.report import Report, make_report
from multirate.lab.resnet50 import resnet50_shapes
from multirate.lab.storage import Storage, StorageError
from multirate.lab.tables import open_console, registry_tables, summary_tables, timing_table
from multirate.lab.tasks import TASKS


class NamesOption(click.Option):
    """An option that takes names from a registry: separated by commas, repeated, or both."""

    def __init__(self, *arguments: Any, registry: Registry[Any], **options: Any) -> None:
        super().__init__(*arguments, **{**options, "multiple": True, "callback": self._names})
        self._registry = registry

    def _names(self, context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[str]:
        names = [name.strip() for value in values for name in value.split(",")]
        for name in names:
            if not name:
                raise click.BadParameter(
                    f"an empty name in {','.join(values)!r}. Known: {', '.join(self._registry)}.",
                    context,
                    option,
                )
            if name not in self._registry:
                raise click.BadParameter(self._registry.explain_unknown(name), context, option)
        return list(dict.fromkeys(names))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(versions()["multirate"], prog_name="multirate")
def command_line() -> None:
    """Optimizers that learn their learning rates, measured."""


@command_line.command()
@click.option(
    "--task", "tasks", cls=NamesOption, registry=TASKS, default=["digits/ffnn"], show_default=True,
    metavar="NAMES", help="Tasks, separated by commas.",
)  # fmt: skip
@click.option(
    "--optimizers", cls=NamesOption, registry=OPTIMIZERS, default=["adam,adam-hd,adam-cam-hd,multirate"],
    show_default=True, metavar="NAMES", help="Optimizers, separated by commas; the first is the baseline.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds 0 to N-1.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of every trial.  [default: the task's own]")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes at a time.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True,
    help="Folder for the results. Trials that it holds already are kept.",
)  # fmt: skip
def compare(tasks: list[str], optimizers: list[str], seeds: int, epochs: int | None, jobs: int, out: Path) -> None:
    """Train every optimizer on every task with several seeds, and report.

    Every finished trial is one line of results.jsonl in the folder; running the same command again goes on
    where it stopped. The report is report.html, with the same charts as PNG files beside it.
    """
    _require_installed(optimizers)
    console = open_console()
    try:
        failures = run_comparison(Comparison(tasks, optimizers, seeds, epochs, jobs, out), console)
        if not failures or Storage(out).results():
            _show(make_report(Storage(out)))
    except StorageError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        console.print("Interrupted. Finished trials are kept: the same command goes on from there.")
        raise
    if failures:
        names = ", ".join(str(failure.trial) for failure in failures)
        raise click.ClickException(f"{len(failures)} failed: {names}\n\n{failures[0].details}")


@command_line.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(folder: Path) -> None:
    """Make the table, pictures and page of FOLDER anew."""
    try:
        _show(make_report(Storage(folder)))
    except StorageError as error:
        raise click.ClickException(str(error)) from error


@command_line.command(name="list")
def list_() -> None:
    """List the tasks and the optimizers."""
    console = open_console()
    for table in registry_tables():
        console.print(table)


@command_line.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("results/speed"),
    show_default=True, help="Folder for speed.json and speed.md.",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Rounds that count.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.  [default: torch's own choice]")
@click.option(
    "--optimizers", cls=NamesOption, registry=CANDIDATES, default=[",".join(CANDIDATES)], show_default=True,
    metavar="NAMES", help="What to measure, separated by commas.",
)  # fmt: skip
def bench(out: Path, rounds: int, threads: int | None, optimizers: list[str]) -> None:
    """Time one step of optimizers on parameters shaped like those of ResNet-50.

    Optimizers whose package is missing are left out.
    """
    console = open_console()
    entries = [CANDIDATES[name] for name in optimizers if CANDIDATES[name].installed]
    if missing := [name for name in optimizers if not CANDIDATES[name].installed]:
        console.print(f"Left out: {', '.join(missing)}.", escape("pip install 'multirate[bench]' brings them."))
    if not entries:
        raise click.ClickException("nothing is left to measure")
    if threads is not None:
        torch.set_num_threads(threads)
    command = ["multirate", "bench", "--rounds", str(rounds), "--threads", str(torch.get_num_threads())]
    command += ["--optimizers", ",".join(optimizers), "--out", str(out)]
    with progress_bar(console, "rounds", WARM_UPS + rounds) as on_round:
        timings = measure(entries, resnet50_shapes(), rounds=rounds, on_round=on_round)
    console.print(timing_table(timings))
    try:
        paths = write(out, timings, command=shlex.join(command))
    except OSError as error:
        raise click.ClickException(f"cannot write to {out}: {error.strerror}") from error
    _show_paths(paths)


def _require_installed(names: Sequence[str]) -> None:
    for entry in (OPTIMIZERS[name] for name in names):
        if not entry.installed:
            raise click.BadParameter(
                f"{entry.name!r} needs the package {entry.package}: pip install 'multirate[{entry.extra}]'",
                param_hint="'--optimizers'",
            )


def _show(report: Report) -> None:
    console = open_console()
    for table in summary_tables(report.summaries):
        console.print(table)
    _show_paths([*report.pictures, report.page])


def _show_paths(paths: Sequence[Path]) -> None:
    console = open_console()
    for path in paths:
        # Paths stay on one line, however long, so that they can be copied.
        console.print(escape(str(path)), soft_wrap=True, highlight=False)
