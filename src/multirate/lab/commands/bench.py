"""`multirate bench`: how long a step takes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.markup import escape

from multirate.lab.bench import goals, tables
from multirate.lab.bench.candidates import CANDIDATES, Candidate
from multirate.lab.bench.compilation import compilations
from multirate.lab.bench.growth import SWEEPS, run_growth
from multirate.lab.bench.measuring import WARM_UPS
from multirate.lab.bench.passes import CASE as PASSES_CASE
from multirate.lab.bench.passes import run_passes
from multirate.lab.bench.shapes import CASES, Shapes, elements, shrunk
from multirate.lab.bench.steps import CaseRounds, groups_of, run_case, timings
from multirate.lab.bench.training import WORKLOADS, run_training
from multirate.lab.bench.writing import Speed, write
from multirate.lab.commands.options import NamesOption, command_text, device_option
from multirate.lab.commands.running import show_paths
from multirate.lab.progress import progress_bar
from multirate.lab.registry import Registry
from multirate.lab.tables import open_console, text_table

COPIED, COPIED_QUICK = 1 << 26, 1 << 10
"""Elements of the tensor whose copying is timed, 256 MiB."""
QUICK_TENSORS = 6


@dataclass(frozen=True)
class Part:
    """A part of the bench.

    Attributes:
        name: What a user types.
    """

    name: str


DEFAULT_CASES = ",".join(case.name for case in CASES.values() if case.by_default)
PARTS: Registry[Part] = Registry(
    "part", [Part(name) for name in ("compiling", "steps", "passes", "growth", "training")]
)


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("results/speed"),
    show_default=True, help="Folder for speed.json, speed.md and the pictures.",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Rounds that count.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.  [default: torch's own choice]")
@device_option
@click.option(
    "--parts", cls=NamesOption, registry=PARTS, default=[",".join(PARTS)], show_default=True, metavar="NAMES",
    help="What to do, separated by commas.",
)  # fmt: skip
@click.option(
    "--cases", cls=NamesOption, registry=CASES, default=[DEFAULT_CASES], show_default=True, metavar="NAMES",
    help="Parameter lists for the steps, separated by commas.",
)  # fmt: skip
@click.option(
    "--optimizers", cls=NamesOption, registry=CANDIDATES, default=[",".join(CANDIDATES)], show_default=True,
    metavar="NAMES", help="What to measure, separated by commas.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Small sizes, to see that all of it works; the times mean nothing.")
def bench(
    out: Path,
    rounds: int,
    threads: int | None,
    device: torch.device,
    parts: list[str],
    cases: list[str],
    optimizers: list[str],
    quick: bool,
) -> None:
    """Time optimizers: single steps on parameters shaped like known models, growing lists, whole training steps.

    Optimizers whose package is missing are left out.
    """
    started = time.perf_counter()
    console = open_console()
    if threads is not None:
        torch.set_num_threads(threads)
    command = command_text(
        "bench", "--rounds", str(rounds), "--threads", str(torch.get_num_threads()), "--device", str(device),
        "--parts", ",".join(parts), "--cases", ",".join(cases), "--optimizers", ",".join(optimizers),
        *(["--quick"] if quick else []), "--out", out,
    )  # fmt: skip

    left_out = {name: "not installed" for name in optimizers if not CANDIDATES[name].installed}
    if left_out:
        console.print(f"Left out: {', '.join(left_out)}.", escape("pip install 'multirate[bench]' brings them."))
    candidates = [CANDIDATES[name] for name in CANDIDATES if name in optimizers and name not in left_out]
    if not candidates:
        raise click.ClickException("nothing is left to measure")

    # A name that is asked for twice is measured once, and in the order of the table.
    compiled = compilations(candidates, device, apart=not quick) if "compiling" in parts else []
    if compiled:
        console.print(text_table("Compiling", tables.compilation_rows(compiled), text_columns=1))
    failed = {each.name: each.error for each in compiled if each.error}
    for name, reason in failed.items():
        console.print(escape(f"Left out: {name}, whose first step failed ({reason})."))
    left_out |= failed
    candidates = [candidate for candidate in candidates if candidate.name not in failed]

    measured = _steps(console, candidates, cases, rounds, device, quick) if "steps" in parts else []
    profiles = None
    if "passes" in parts and device.type == "cpu":
        shapes = _small(CASES[PASSES_CASE].make()) if quick else CASES[PASSES_CASE].make()
        with progress_bar(console, "passes", WARM_UPS + rounds) as on_round:
            profiles = run_passes(
                candidates, shapes, case=PASSES_CASE, rounds=rounds,
                copied=COPIED_QUICK if quick else COPIED, on_round=on_round,
            )  # fmt: skip
    growth, training = [], []
    if "growth" in parts:
        sizes = sum(len(sweep.quick if quick else sweep.sizes) for sweep in SWEEPS.values())
        with progress_bar(console, "growth", sizes) as on_size:
            growth = run_growth(candidates, rounds=rounds, device=device, quick=quick, on_size=on_size)
    if "training" in parts:
        with progress_bar(console, "training", len(WORKLOADS) * (WARM_UPS + rounds)) as on_round:
            training = run_training(candidates, rounds=rounds, device=device, quick=quick, on_round=on_round)
        if training:
            console.print(text_table("Training steps", tables.training_rows(training), text_columns=2))
    if measured or training:
        reached = goals.rows(goals.run_of(device.type, measured, training))
        console.print(text_table("Goals, where they are furthest from being met", reached, text_columns=2))
    speed = Speed(
        command=command,
        device=str(device),
        threads=torch.get_num_threads(),
        rounds=rounds,
        quick=quick,
        optimizers=tuple(candidate.name for candidate in candidates),
        left_out=left_out,
        compilations=tuple(compiled),
        cases=tuple(measured),
        profiles=profiles,
        growth=tuple(growth),
        training=tuple(training),
        seconds=time.perf_counter() - started,
    )
    try:
        paths = write(out, speed)
    except OSError as error:
        raise click.ClickException(f"cannot write to {out}: {error.strerror}") from error
    show_paths(paths)


def _steps(
    console: Console, candidates: list[Candidate], cases: list[str], rounds: int, device: torch.device, quick: bool
) -> list[CaseRounds]:
    """Measure cases and print the table of each as soon as it is there."""
    found = []
    for name in cases:
        shapes = _small(CASES[name].make()) if quick else CASES[name].make()
        groups = len(groups_of(candidates, elements(shapes)))
        with progress_bar(console, name, groups + 1) as on_group:
            result = run_case(
                CASES[name], shapes, candidates, rounds=rounds, device=device,
                copied=COPIED_QUICK if quick else COPIED, on_group=on_group,
            )  # fmt: skip
        if result is not None:
            found.append(result)
            console.print(text_table(f"Steps, {CASES[name].description}", tables.step_rows(timings(result))))
    return found


def _small(shapes: Shapes) -> Shapes:
    return shrunk(dict(list(shapes.items())[:QUICK_TENSORS]), most=8)
