"""`multirate compare` and `multirate sweep`: any tasks, optimizers and seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from multirate.lab.commands.options import (
    VariantsOption,
    baseline_option,
    baseline_words,
    command_text,
    epochs_option,
    out_option,
    resource_options,
    resources,
    seeds_option,
    task_option,
)
from multirate.lab.commands.running import run_and_report
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.studies.base import grid
from multirate.lab.variants import Variant, parse_setting

SEVEN_DECADES = "1e-7,1e-6,1e-5,1e-4,1e-3,1e-2,1e-1,1"


@click.command()
@task_option
@click.option(
    "--optimizers", cls=VariantsOption, registry=OPTIMIZERS, default=["adam,adam-hd,adam-cam-hd,multirate"],
    show_default=True, metavar="NAMES",
    help="Optimizers, separated by commas; the first is the baseline unless --baseline names others. Each may carry "
    "options and a schedule: adam:lr=0.003+cosine.",
)  # fmt: skip
@seeds_option
@epochs_option
@baseline_option
@out_option
@resource_options
def compare(
    tasks: list[str],
    optimizers: list[str],
    seeds: int,
    epochs: int | None,
    baselines: list[str],
    out: Path,
    **options: Any,
) -> None:
    """Train every optimizer on every task with several seeds, and report.

    Every finished trial is one line of results.jsonl in the folder; running the same command again goes on
    where it stopped, in the middle of a trial too. The report is report.html, with the same charts as PNG files
    beside it.
    """
    how = resources(options)
    length = [] if epochs is None else ["--epochs", str(epochs)]
    command = command_text(
        "compare", "--task", ",".join(tasks), "--optimizers", ",".join(optimizers), "--seeds", str(seeds), length,
        baseline_words(baselines, optimizers), how.words(), "--out", out,
    )  # fmt: skip
    run_and_report(grid(tasks, optimizers, seeds, epochs), command, out, how, baselines=baselines)


@click.command()
@task_option
@click.option(
    "--optimizers", cls=VariantsOption, registry=OPTIMIZERS, default=["adam,adam-hd"], show_default=True,
    metavar="NAMES", help="Optimizers, separated by commas.",
)  # fmt: skip
@click.option("--option", default="lr", show_default=True, metavar="NAME", help="The option to vary.")
@click.option(
    "--values", default=SEVEN_DECADES, show_default=True, metavar="VALUES",
    help="Its values, separated by commas; a value of several parts has / between them.",
)  # fmt: skip
@seeds_option
@epochs_option
@baseline_option
@out_option
@resource_options
def sweep(
    tasks: list[str],
    optimizers: list[str],
    option: str,
    values: str,
    seeds: int,
    epochs: int | None,
    baselines: list[str],
    out: Path,
    **options: Any,
) -> None:
    """Train every optimizer with every value of one option, and report.

    Over learning rates the report shows how far from the best one each optimizer still does well; over another option
    whose values are numbers, loss and accuracy as curves.
    """
    how = resources(options)
    try:
        variants = [_with(name, option, value.strip()) for name in optimizers for value in values.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--option' / '--values'") from error
    length = [] if epochs is None else ["--epochs", str(epochs)]
    command = command_text(
        "sweep", "--task", ",".join(tasks), "--optimizers", ",".join(optimizers), "--option", option,
        "--values", values, "--seeds", str(seeds), length, baseline_words(baselines, optimizers), how.words(),
        "--out", out,
    )  # fmt: skip
    run_and_report(grid(tasks, list(dict.fromkeys(variants)), seeds, epochs), command, out, how, baselines=baselines)


def _with(name: str, option: str, value: str) -> str:
    variant = Variant.parse(name)
    if option in variant.options:
        raise ValueError(f"{name} sets {option} already: leave it out there, or vary another option")
    changed = dataclasses.replace(variant, options={**variant.options, option: parse_setting(value)})
    # What is written must be read back from the table of results.
    return str(Variant.parse(str(changed)))
