"""speed.json, everything that was measured; speed.md, what it comes to; and the pictures."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from multirate.lab.bench import goals, tables
from multirate.lab.bench.candidates import CANDIDATES
from multirate.lab.bench.charts import growth_chart, ratio_chart
from multirate.lab.bench.compilation import Compilation
from multirate.lab.bench.growth import SWEEPS, GrowthRow
from multirate.lab.bench.measuring import WARM_UPS
from multirate.lab.bench.passes import Profiles
from multirate.lab.bench.passes import rows as pass_rows
from multirate.lab.bench.steps import CaseRounds, bandwidths, timings
from multirate.lab.bench.training import WORKLOADS, TrainingTiming
from multirate.lab.environment import hardware, revision, versions
from multirate.lab.markdown import markdown_table
from multirate.lab.reporting.charts import Chart
from multirate.lab.reporting.pictures import draw_png
from multirate.lab.storage import write_whole


@dataclass(frozen=True)
class Speed:
    """All that a run measured.

    Attributes:
        command: The command that measures it again.
        device: Where it was measured.
        threads: Threads of torch.
        rounds: Rounds that count.
        quick: Whether sizes were those of a trial, whose times mean nothing.
        optimizers: Names of what was measured.
        left_out: What was asked for and not measured, with the reason.
        compilations: First steps.
        cases: Steps.
        profiles: Our steps, taken apart.
        growth: Steps of growing size.
        training: Whole training steps.
        seconds: What the run took.
    """

    command: str
    device: str
    threads: int
    rounds: int
    quick: bool
    optimizers: tuple[str, ...]
    left_out: dict[str, str]
    compilations: tuple[Compilation, ...]
    cases: tuple[CaseRounds, ...]
    profiles: Profiles | None
    growth: tuple[GrowthRow, ...]
    training: tuple[TrainingTiming, ...]
    seconds: float


def write(folder: Path, speed: Speed) -> list[Path]:
    """Write the files into a folder; return their paths."""
    paths = [folder / "speed.json", folder / "speed.md"]
    write_whole(paths[0], json.dumps({**_origin(speed), **dataclasses.asdict(speed)}, indent=1) + "\n")
    write_whole(paths[1], markdown(speed, _guide(folder.resolve())))
    for chart in _charts(speed):
        paths.append(folder / f"speed-{chart.key}.png")
        write_whole(paths[-1], draw_png(chart, _machine(speed)))
    return paths


def markdown(speed: Speed, guide: str) -> str:
    """Return the text of speed.md, with a guide to it."""
    parts = [
        "# Speed\n",
        *(["**A trial with small sizes: none of these times mean anything.**\n"] if speed.quick else []),
        f"{_how(speed)} {guide}.\n",
        _origin_text(speed),
    ]
    if speed.cases or speed.training:
        reached = goals.rows(goals.run_of(_kind(speed), speed.cases, speed.training))
        parts += ["## Goals\n", "What is furthest from the aim, over all places where it was measured.\n"]
        parts.append(markdown_table(reached, text_columns=2))
    parts += ["## Steps\n", _STEPS] if speed.cases else []
    if any(chart.key == "ratios" for chart in _charts(speed)):
        parts.append("![Ratio of step times to the fastest AdamW, by case](speed-ratios.png)\n")
    parts += [text for case in speed.cases for text in _case(case)]
    if speed.profiles is not None:
        described = {name: CANDIDATES[name].description for name in speed.optimizers}
        of = speed.profiles
        size = f"Parameters of `{of.case}`: {of.parameters:,} elements in {of.tensors:,} tensors."
        parts += ["## Passes\n", f"{_PASSES} {size}\n", markdown_table(pass_rows(of, described), 1)]
    if speed.compilations:
        parts += ["## Compiling\n", _COMPILING, markdown_table(tables.compilation_rows(speed.compilations), 1)]
    if speed.growth:
        parts += ["## Growth\n", "![Time of a step against its size](speed-growth.png)\n"]
        for sweep in SWEEPS:
            parts += [
                f"### {tables.growth_title(sweep)}\n", markdown_table(tables.growth_rows(speed.growth, sweep), 1)
            ]  # fmt: skip
    if speed.training:
        models = "; ".join(f"`{workload.name}`: {workload.description}" for workload in WORKLOADS.values())
        parts += ["## Training steps\n", f"{_TRAINING} {models}.\n"]
        parts.append(markdown_table(tables.training_rows(speed.training), text_columns=2))
    return "\n".join(parts)


_STEPS = (
    "Ratio: median to that of the fastest AdamW (loop, foreach or fused) of the same rounds. Host: the time until the "
    "call returns; on a CPU that of a step on as many tensors of next to no elements. Bytes moved: for every "
    "parameter, by an ideal implementation (how they are counted is told there too); over the time of a "
    "step they are a bandwidth, told as a share of that of copying. State: bytes a parameter. Peak: what a step "
    "allocates for a moment.\n"
)
_PASSES = (
    "Our steps taken apart, in rounds of their own: every pass over memory by the bytes that it has to move, and what "
    "is left of the step, which is the host's. Medians, which need not add up."
)
_COMPILING = (
    "The first step of a new process against its next ones, on three small tensors; compiled is once for each kind of "
    "step (heavyball: for each list of shapes). In a later process: the first step of another one, which finds on disk "
    "what the first had compiled.\n"
)
_TRAINING = (
    "Forward, backward and optimizer, the same random batch every time. Over fused AdamW: the median over the rounds "
    "of the ratio within a round, and an interval of it that asks nothing of the distribution. By its part alone: how "
    "much longer `step()` took, as a share of the whole step; far less noisy, but blind to hooks in the forward pass."
)


def _how(speed: Speed) -> str:
    return (
        f"Float32; fixed random gradients at a scale drawn anew in every round. Rounds that count: {speed.rounds} "
        f"(half for more than 67 million elements or 5,000 tensors), after {WARM_UPS} warm-ups; a round times one step "
        "of each optimizer, and copying and reading a large tensor, in an order drawn anew. Where all do not fit into "
        "memory together they are measured in groups that each contain every AdamW."
    )


def _guide(folder: Path) -> str:
    """Where it is told how to read the tables: a link, where the folder lies in a checkout."""
    for parent in folder.parents:
        page = parent / "docs" / "performance.md"
        if page.is_file():
            return f"[How to read this]({Path(os.path.relpath(page, folder)).as_posix()})"
    return "How to read this: docs/performance.md of the project"


def _case(case: CaseRounds) -> list[str]:
    measured = bandwidths(case)
    told = "" if measured is None else f" Copying: {measured[0] / 1e9:.1f} GB/s; reading: {measured[1] / 1e9:.1f} GB/s."
    return [
        f"### {case.case}: {case.description}\n",
        f"{case.parameters:,} elements in {case.tensors:,} tensors.{told}\n",
        markdown_table(tables.step_rows(timings(case)), text_columns=1),
    ]


def _charts(speed: Speed) -> list[Chart]:
    ratios = ratio_chart({case.case: timings(case) for case in speed.cases})
    growth = growth_chart(speed.growth) if speed.growth else None
    return [chart for chart in (ratios, growth) if chart is not None]


def _kind(speed: Speed) -> str:
    return torch.device(speed.device).type


def _machine(speed: Speed) -> str:
    return hardware(torch.device(speed.device))


def _origin(speed: Speed) -> dict[str, Any]:
    return {"hardware": _machine(speed), "versions": _versions(speed), "revision": revision()}


def _versions(speed: Speed) -> dict[str, str]:
    found = {**versions(), "numba": _numba()}
    for name in speed.optimizers:
        found |= CANDIDATES[name].version()
    return found


def _numba() -> str:
    # Whether ours run compiled on a CPU depends on it.
    try:
        return importlib.metadata.version("numba")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _origin_text(speed: Speed) -> str:
    known = ", ".join(f"{name} {version}" for name, version in _versions(speed).items())
    code = f", revision {revision()}" if revision() else ""
    threads = f"{speed.threads} thread{'s' if speed.threads > 1 else ''}"
    lines = [
        f"{_machine(speed)}; {threads}; {known}{code}; {speed.seconds / 60:.1f} minutes.\n",
        *(f"Left out: {name} ({reason}).\n" for name, reason in speed.left_out.items()),
        f"    {speed.command}\n",
    ]
    return "\n".join(lines)
