"""`multirate bench`: how long a step takes."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from rich.markup import escape

from multirate.lab.bench import CANDIDATES, WARM_UPS, measure, write
from multirate.lab.commands.options import NamesOption, command_text
from multirate.lab.commands.running import show_paths
from multirate.lab.progress import progress_bar
from multirate.lab.resnet50 import resnet50_shapes
from multirate.lab.tables import open_console, timing_table


@click.command()
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
    command = command_text(
        "bench", "--rounds", str(rounds), "--threads", str(torch.get_num_threads()),
        "--optimizers", ",".join(optimizers), "--out", out,
    )  # fmt: skip
    with progress_bar(console, "rounds", WARM_UPS + rounds) as on_round:
        timings = measure(entries, resnet50_shapes(), rounds=rounds, on_round=on_round)
    console.print(timing_table(timings))
    try:
        paths = write(out, timings, command=command)
    except OSError as error:
        raise click.ClickException(f"cannot write to {out}: {error.strerror}") from error
    show_paths(paths)
