"""What is aimed at, beside what was measured."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from multirate.lab.bench import traffic
from multirate.lab.bench.candidates import CANDIDATES, OWN, PEER
from multirate.lab.bench.steps import CaseRounds, Timing, timings
from multirate.lab.bench.training import Overhead, TrainingTiming, overhead
from multirate.lab.variants import Settings

FUSED, FOREACH, CAM_HD, LATE = "adamw-fused", "adamw-foreach", "cam-hd-layer", "cam-hd-late"
ON_ADAM = ("multirate:AdamHD", "multirate:AdamCAMHD")


@dataclass(frozen=True)
class Found:
    """A measured value and where it was found."""

    value: float
    where: str


@dataclass(frozen=True)
class Run:
    """What a run measured, as goals look at it.

    Attributes:
        device: Type of the device.
        cases: Timings of every case.
        models: The cases that are shaped like models that are trained.
        training: Whole training steps.
    """

    device: str
    cases: Mapping[str, Mapping[str, Timing]]
    models: tuple[str, ...]
    training: Sequence[TrainingTiming]


@dataclass(frozen=True)
class Goal:
    """Something aimed at.

    Attributes:
        text: What is measured.
        bounds: The aim, by type of device.
        measured: Returns what was found at all places where the goal holds, by a run.
        least: Whether the bound is the least that is aimed at, and not the most.
        percent: Whether the value is told in percent.
        unit: What follows the value.
    """

    text: str
    bounds: Mapping[str, float]
    measured: Callable[[Run], list[Found]]
    least: bool = False
    percent: bool = False
    unit: str = "×"


def run_of(device: str, cases: Sequence[CaseRounds], training: Sequence[TrainingTiming]) -> Run:
    """Return a run as goals look at it."""
    by_case = {result.case: {timing.candidate.name: timing for timing in timings(result)} for result in cases}
    return Run(device, by_case, tuple(result.case for result in cases if result.is_model), training)


def _against_fused(name: str) -> Callable[[Run], list[Found]]:
    def measured(run: Run) -> list[Found]:
        return [
            Found(run.cases[case][name].ratios[FUSED], case)
            for case in run.models
            if name in run.cases[case] and FUSED in run.cases[case][name].ratios
        ]

    return measured


def _peers_against(name: str) -> Callable[[Run], list[Found]]:
    def measured(run: Run) -> list[Found]:
        return [
            Found(found[peer].ratios[FUSED] / found[name].ratios[FUSED], f"{peer}, {case}")
            for case, found in ((case, run.cases[case]) for case in run.models)
            if name in found and FUSED in found
            for peer in found
            if CANDIDATES[peer].role == PEER and CANDIDATES[peer].adapts
        ]

    return measured


def _shares(run: Run) -> list[Found]:
    return [
        Found(timing.share, name)
        for name, timing in run.cases.get("flat", {}).items()
        if timing.candidate.role == OWN and timing.share is not None
    ]


def _tiny(run: Run) -> list[Found]:
    timing = run.cases.get("tiny", {}).get(CAM_HD)
    return [] if timing is None or FOREACH not in timing.host_ratios else [Found(timing.host_ratios[FOREACH], "tiny")]


def _overheads(run: Run) -> list[Found]:
    found = ((timing, overhead(timing, run.training)) for timing in run.training if timing.optimizer == CAM_HD)
    return [Found(each.median, _with_interval(timing.workload, each)) for timing, each in found if each is not None]


def _with_interval(workload: str, found: Overhead) -> str:
    if found.interval is None:
        return workload
    low, high = (f"{100 * end:+.1f}" for end in found.interval)
    return f"{workload}, 95 % interval {low} to {high} %"


def _extra_bytes(run: Run) -> list[Found]:
    # What is kept for each tensor or unit weighs where tensors are tiny, which is no matter of memory.
    names = [
        name
        for name, each in CANDIDATES.items()
        if each.constructor in ON_ADAM and "parameter" not in _levels(each.settings)
    ]
    return [
        Found(run.cases[case][name].state - traffic.NUMBER * traffic.ADAM.state, f"{name}, {case}")
        for case in run.models
        for name in names
        if name in run.cases[case]
    ]


def _levels(settings: Settings) -> tuple[object, ...]:
    levels = settings.get("levels", ())
    return levels if isinstance(levels, tuple) else ()


GOALS = (
    Goal("AdamCAMHD, global + layer, to fused AdamW", {"cpu": 1.5, "cuda": 1.35}, _against_fused(CAM_HD)),
    Goal("the same with rates a step late, to fused AdamW", {"cpu": 1.5, "cuda": 1.35}, _against_fused(LATE)),
    Goal("AdamCAMHD, global + unit, to fused AdamW", {"cpu": 1.6, "cuda": 1.45}, _against_fused("cam-hd-unit")),
    Goal(
        "AdamCAMHD, global + parameter, to fused AdamW", {"cpu": 2.0, "cuda": 1.9}, _against_fused("cam-hd-parameter")
    ),
    Goal("self-tuning AdamW, to fused AdamW", {"cpu": 1.8, "cuda": 1.6}, _against_fused("adamw-self")),
    Goal(
        "peers that adapt their rate, to AdamCAMHD, global + layer",
        {"cpu": 1.5, "cuda": 1.5}, _peers_against(CAM_HD), least=True,
    ),
    Goal(
        "peers that adapt their rate, to self-tuning AdamW",
        {"cpu": 1.5, "cuda": 1.5}, _peers_against("adamw-self"), least=True,
    ),
    Goal(
        "ours on one large tensor, share of the bandwidth of copying",
        {"cpu": 0.75, "cuda": 0.8}, _shares, least=True, percent=True, unit=" %",
    ),
    Goal("ten thousand tiny tensors, host time, AdamCAMHD to foreach AdamW", {"cpu": 1.3, "cuda": 1.2}, _tiny),
    Goal(
        "training step, AdamCAMHD over fused AdamW",
        {"cpu": 0.03, "cuda": 0.02}, _overheads, percent=True, unit=" %",
    ),
    Goal(
        "state of CAM-HD on Adam beyond Adam's, without the parameter level, bytes a parameter",
        {"cpu": 0.0, "cuda": 0.0}, _extra_bytes, unit="",
    ),
)  # fmt: skip
ROUNDING = 0.05
"""What counts as none among bytes a parameter: a few numbers for every layer or unit."""


def rows(run: Run) -> list[dict[str, str]]:
    """Return the table as text: every goal with the place where it is furthest from being met."""
    return [_row(goal, run) for goal in GOALS]


def _row(goal: Goal, run: Run) -> dict[str, str]:
    bound = goal.bounds[run.device]
    found = goal.measured(run)
    aim = f"{'≥' if goal.least else '≤'} {_told(goal, bound)}"
    if not found:
        return {"goal": goal.text, "where": "not measured", "aim": aim, "measured": "–", "verdict": "–"}
    worst = (min if goal.least else max)(found, key=lambda each: each.value)
    slack = ROUNDING if bound == 0 else 0.0
    met = operator.ge(worst.value, bound) if goal.least else operator.le(worst.value, bound + slack)
    return {
        "goal": goal.text,
        "where": worst.where,
        "aim": aim,
        "measured": _told(goal, worst.value),
        "verdict": "met" if met else "missed",
    }


def _told(goal: Goal, value: float) -> str:
    return f"{100 * value:.1f}{goal.unit}" if goal.percent else f"{value:.2f}{goal.unit and ' ' + goal.unit}"
