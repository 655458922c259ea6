"""`multirate seeds`: what several seeds of a small model cost."""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch

from multirate.lab.bench.seeds import ROUNDS, measure_seeds, write
from multirate.lab.commands.options import (
    NamesOption,
    command_text,
    data_dir_option,
    device_option,
    require_installed,
    use_data_folder,
)
from multirate.lab.data.sources import DataError
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.progress import progress_bar
from multirate.lab.tables import open_console
from multirate.lab.tasks import TASKS


@click.command()
@click.option(
    "--task", "tasks", cls=NamesOption, registry=TASKS, default=["digits/ffnn"], show_default=True, metavar="NAMES",
    help="Classification tasks, separated by commas.",
)  # fmt: skip
@click.option(
    "--optimizers", cls=NamesOption, registry=OPTIMIZERS, default=["adam,adam-cam-hd"], show_default=True,
    metavar="NAMES", help="What to train with, separated by commas.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=2), default=10, show_default=True, help="Number of seeds.")
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True, help="Steps of each seed.")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Rounds that count.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one a core",
    help="Processes.",
)
@device_option
@data_dir_option
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("results/seeds"),
    show_default=True, help="Folder for seeds.json and seeds.md.",
)  # fmt: skip
def seeds(
    tasks: list[str],
    optimizers: list[str],
    seeds: int,
    steps: int,
    rounds: int,
    jobs: int,
    device: torch.device,
    data_dir: Path | None,
    out: Path,
) -> None:
    """Time one seed, and several one after another, batched in one process, and in several processes."""
    require_installed(optimizers)
    use_data_folder(data_dir)
    console = open_console()
    command = command_text(
        "seeds", "--task", ",".join(tasks), "--optimizers", ",".join(optimizers), "--seeds", str(seeds),
        "--steps", str(steps), "--rounds", str(rounds), "--jobs", str(jobs),
        *(["--device", str(device)] if device.type != "cpu" else []), "--out", out,
    )  # fmt: skip
    pairs = [(task, optimizer) for task in tasks for optimizer in optimizers]
    try:
        with progress_bar(console, "rounds", rounds * len(pairs)) as on_round:
            timings = [
                measure_seeds(*pair, seeds, steps, rounds=rounds, jobs=jobs, device=str(device), on_round=on_round)
                for pair in pairs
            ]
    except (ValueError, DataError) as error:
        raise click.ClickException(str(error)) from error
    try:
        _, table = write(out, timings, command=command)
    except OSError as error:
        raise click.ClickException(f"cannot write to {out}: {error.strerror}") from error
    console.print(table.read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
