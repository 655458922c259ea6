"""`multirate reproduce`: the paper's experiments, and ours beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from multirate.lab.commands.options import command_text, out_option, resource_options, resources
from multirate.lab.commands.running import run_and_report
from multirate.lab.data.sources import DataError
from multirate.lab.results import TrialResult
from multirate.lab.storage import Storage, StorageError, write_whole
from multirate.lab.studies.base import Request
from multirate.lab.studies.plan import estimate_text, plan_text
from multirate.lab.studies.table import STUDIES

CHOICES = "choices.md"
"""What earlier stages have chosen, beside the results of what was chosen."""


@click.command()
@click.argument("study", type=click.Choice(list(STUDIES)))
@click.option("--seeds", type=click.IntRange(min=1), help="Seeds 0 to N-1.  [default: the study's own]")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs of every trial.  [default: the study's own]")
@click.option(
    "--data", type=click.Choice(["digits"]),
    help="Take the small data set that needs no download in the place of MNIST; for studies on MNIST alone, or with "
    "--task.",
)  # fmt: skip
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task of the study; may be repeated.")
@out_option
@resource_options
def reproduce(
    study: str,
    seeds: int | None,
    epochs: int | None,
    data: str | None,
    tasks: tuple[str, ...],
    out: Path,
    **options: Any,
) -> None:
    """Run a study of the paper, as its protocol has it, and report beside the published figures."""
    how = resources(options)
    words = [
        word
        for name, value in (("--seeds", seeds), ("--epochs", epochs), ("--data", data))
        if value is not None
        for word in (name, str(value))
    ]
    words += [word for task in tasks for word in ("--task", task)]
    command = command_text("reproduce", study, words, how.words(), "--out", out)
    request = Request(seeds, epochs, data, tasks or None)
    earlier: Sequence[TrialResult] = ()
    stages = STUDIES[study].stages
    how = how if how.first is not None else dataclasses.replace(how, first=STUDIES[study].first)
    try:
        click.echo(plan_text(STUDIES[study], request))
    except (ValueError, DataError) as error:
        raise click.UsageError(str(error)) from error
    for stage in stages:
        folder = out / stage.folder
        trials = stage.trials(request, earlier)
        known = [*earlier, *_results(folder)]
        click.echo(estimate_text(trials, known, how.workers.jobs))
        choices = None if stage.choices is None else stage.choices(request, earlier)
        if choices is not None:
            click.echo(choices)
        # What is published are the results of the last stage.
        run_and_report(trials, command, folder, how, study if stage is stages[-1] else None)
        if choices is not None:
            write_whole(folder / CHOICES, choices)
        earlier = _results(folder)


def _results(folder: Path) -> list[TrialResult]:
    try:
        return Storage(folder).results()
    except StorageError as error:
        raise click.ClickException(str(error)) from error
