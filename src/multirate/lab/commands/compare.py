"""`multirate compare` and `multirate sweep`: any tasks, optimizers and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from multirate.lab.commands.options import (
    NamesOption,
    VariantsOption,
    command_text,
    out_option,
    resource_options,
    resources,
)
from multirate.lab.commands.running import run_and_report
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.studies.base import grid
from multirate.lab.tasks import TASKS


@click.command()
@click.option(
    "--task", "tasks", cls=NamesOption, registry=TASKS, default=["digits/ffnn"], show_default=True,
    metavar="NAMES", help="Tasks, separated by commas.",
)  # fmt: skip
@click.option(
    "--optimizers", cls=VariantsOption, registry=OPTIMIZERS, default=["adam,adam-hd,adam-cam-hd,multirate"],
    show_default=True, metavar="NAMES",
    help="Optimizers, separated by commas; the first is the baseline. Each may carry options and a schedule: "
    "adam:lr=0.003+cosine.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds 0 to N-1.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of every trial.  [default: the task's own]")
@out_option
@resource_options
def compare(tasks: list[str], optimizers: list[str], seeds: int, epochs: int | None, out: Path, **options: Any) -> None:
    """Train every optimizer on every task with several seeds, and report.

    Every finished trial is one line of results.jsonl in the folder; running the same command again goes on
    where it stopped, in the middle of a trial too. The report is report.html, with the same charts as PNG files
    beside it.
    """
    how = resources(options)
    length = [] if epochs is None else ["--epochs", str(epochs)]
    command = command_text(
        "compare", "--task", ",".join(tasks), "--optimizers", ",".join(optimizers), "--seeds", str(seeds), length,
        how.words(), "--out", out,
    )  # fmt: skip
    run_and_report(grid(tasks, optimizers, seeds, epochs), command, out, how)
