"""`multirate yardstick`: one setting for everything, against tuned and rate-free methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from multirate.lab.commands.options import (
    NamesOption,
    command_text,
    epochs_option,
    out_option,
    require_installed,
    resource_options,
    resources,
)
from multirate.lab.commands.running import run_and_report, run_only
from multirate.lab.results import TrialResult
from multirate.lab.storage import Storage, StorageError
from multirate.lab.variants import Variant
from multirate.lab.yardstick.families import FAMILIES
from multirate.lab.yardstick.stages import MOST_SEEDS, NAME, SEARCH_FOLDER, Request, final_trials, search_trials
from multirate.lab.yardstick.tasks import DEVELOPMENT, GROUPS, YARDSTICK, group_tasks


@click.command()
@click.option(
    "--group", type=click.Choice(GROUPS), default=DEVELOPMENT, show_default=True,
    help="The tasks that defaults are chosen on, or those that nothing is ever chosen on.",
)  # fmt: skip
@click.option(
    "--task", "tasks", cls=NamesOption, registry=YARDSTICK, metavar="NAMES",
    help="Only these tasks of the group, separated by commas.  [default: all that the device is fit for]",
)  # fmt: skip
@click.option(
    "--family", "families", cls=NamesOption, registry=FAMILIES, metavar="NAMES",
    help=f"Only these families of methods, separated by commas: {', '.join(FAMILIES)}.  [default: all]",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1, max=MOST_SEEDS), default=3, show_default=True,
    help="How many seeds; those of the two groups differ.",
)  # fmt: skip
@epochs_option
@out_option
@resource_options
def yardstick(
    group: str,
    tasks: list[str],
    families: list[str],
    seeds: int,
    epochs: int | None,
    out: Path,
    **options: Any,
) -> None:
    """Compare the self-tuning optimizers, from any starting rate, with tuned and rate-free methods.

    Opponents with a rate are searched with a seed of their own, in OUT/search; what was best on each task is then
    run with all seeds. The scores are in OUT/yardstick.md.
    """
    how = resources(options)
    words = [word for name, chosen in (("--task", tasks), ("--family", families)) if chosen
             for word in (name, ",".join(chosen))]  # fmt: skip
    words += [] if epochs is None else ["--epochs", str(epochs)]
    command = command_text(NAME, "--group", group, words, "--seeds", str(seeds), how.words(), "--out", out)
    chosen_families = families or list(FAMILIES)
    require_installed(_optimizers(chosen_families), "'--family'")
    request = Request(group, _tasks(group, tasks, gpu=how.on_gpu), chosen_families, seeds, epochs)
    searched: Sequence[TrialResult] = ()
    if trials := search_trials(request):
        run_only(trials, command, out / SEARCH_FOLDER, how)
        try:
            searched = Storage(out / SEARCH_FOLDER).results()
        except StorageError as error:
            raise click.ClickException(str(error)) from error
    run_and_report(final_trials(request, searched), command, out, how, NAME)


def _tasks(group: str, names: Sequence[str], *, gpu: bool) -> list[str]:
    if other := [name for name in names if YARDSTICK[name].group != group]:
        entry = YARDSTICK[other[0]]
        raise click.BadParameter(
            f"{entry.name!r} is a {entry.group} task: add --group {entry.group}, or choose from "
            f"{', '.join(group_tasks(group, gpu=True))}",
            param_hint="'--task'",
        )
    return list(names) or group_tasks(group, gpu=gpu)


def _optimizers(families: Sequence[str]) -> list[str]:
    return [Variant.parse(FAMILIES[name].candidates[0]).optimizer for name in families]
