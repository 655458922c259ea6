"""The charts of the yardstick."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from multirate.lab.reporting.charts import COLORS, Bar, Chart, Heat, Panel
from multirate.lab.reporting.curve_charts import rate_panels, rates_chart
from multirate.lab.reporting.summaries import Curves
from multirate.lab.results import Trial
from multirate.lab.variants import CONSTANT, Variant
from multirate.lab.yardstick.families import BY_LEVEL, DEFAULT, FAMILIES, LEVELS_RATE, OURS, START_RATES, TUNED
from multirate.lab.yardstick.scores import Cell, Yardstick

KIND_COLORS: Mapping[str, str] = {TUNED: COLORS[8], DEFAULT: COLORS[1], OURS: COLORS[0], BY_LEVEL: COLORS[5]}


def yardstick_charts(yardstick: Yardstick) -> list[Chart]:
    """Return the charts over all tasks; those with nothing to show are left out."""
    return [chart for chart in (methods_chart(yardstick), starts_chart(yardstick)) if chart.panels]


def methods_chart(yardstick: Yardstick) -> Chart:
    """Return the score of every method as a bar, the lowest first."""
    ordered = sorted(yardstick.methods, key=lambda method: method.score)
    bars = tuple(Bar(method.method, method.score, KIND_COLORS[method.kind]) for method in ordered)
    panel = Panel("", "test loss / best tuned", "", bars=bars, log_x=True)
    return Chart(
        "yardstick-methods",
        "Scores of all methods",
        "Final test loss over that of the best tuned method, geometric mean over tasks; for ours over starting rates "
        "from 1e-7 to 1e-2 too. Blue: ours; light blue: ours with fixed levels; orange: opponents at their default; "
        "grey: tuned for each task.",
        (panel,) if bars else (),
    )


def starts_chart(yardstick: Yardstick) -> Chart:
    """Return the score of ours by task and starting rate, a panel for every method."""
    methods = [method.method for method in yardstick.methods if method.kind == OURS]
    return Chart(
        "yardstick-starts",
        "Scores from every starting rate",
        "Final test loss over that of the best tuned method on the task; mean over seeds.",
        tuple(Panel(method, "log10 of the starting rate", "", heat=_heat(yardstick, method)) for method in methods),
        one_scale=True,
        quantity="score",
    )


def start_rates_charts(yardstick: Yardstick, curves: Mapping[Trial, Curves]) -> dict[str, list[Chart]]:
    """Return, by task, the learned rates of every layer from every starting rate, a chart for every family of ours."""
    return {
        task: [
            replace(
                chart,
                key=f"starts-{family.name}",
                title=f"Learned rates from every start: {family.name}",
            )
            for family in FAMILIES.values()
            if family.kind == OURS
            for chart in [rates_chart(_runs(task, family.candidates, curves))]
            if chart.panels
        ]
        for task in yardstick.tasks
    }


def layers_chart(yardstick: Yardstick, curves: Mapping[Trial, Curves]) -> Chart:
    """Return what every layer's rate is of the model's, by task, where both levels are learned."""
    panels: list[Panel] = []
    for task in yardstick.tasks:
        name = f"multirate-adamw:levels=global/layer:lr={LEVELS_RATE}"
        seeds = [_shares(curve) for trial, curve in curves.items() if (trial.task, trial.optimizer) == (task, name)]
        panels += rate_panels({short_name(task): seeds}, ("shares",), "layers", one_scale=False)[1] if seeds else ()
    return Chart(
        "yardstick-layers",
        "Rates of layers over that of the model",
        "What is left of the model's rate for each layer, 1 where none is slowed; at most twelve layers, from the "
        "first to the last. Geometric mean over seeds, the band reaches from the lowest seed to the highest.",
        tuple(panels),
    )


def _shares(curve: Curves) -> Curves:
    whole = curve["rates"]["global"]["all"]
    shares = {
        layer: [None if rate is None or not of else rate / of for rate, of in zip(rates, whole, strict=True)]
        for layer, rates in curve["rates"]["layer"].items()
    }
    return {"rate_steps": curve["rate_steps"], "shares": shares}


def _runs(task: str, candidates: Iterable[str], curves: Mapping[Trial, Curves]) -> dict[str, list[Curves]]:
    unscheduled = [name for name in candidates if Variant.parse(name).schedule == CONSTANT]
    runs = {
        name: [curve for trial, curve in curves.items() if (trial.task, trial.optimizer) == (task, name)]
        for name in unscheduled
    }
    return {name: seeds for name, seeds in runs.items() if seeds}


def _heat(yardstick: Yardstick, method: str) -> Heat:
    scores = {(cell.task, cell.lr): cell for cell in yardstick.cells if cell.method == method}
    return Heat(
        x=tuple(round(math.log10(lr), 6) for lr in START_RATES),
        names=tuple(short_name(task) for task in yardstick.tasks),
        rows=tuple(_row(task, scores) for task in yardstick.tasks),
        cells=True,
    )


def _row(task: str, scores: Mapping[tuple[str, float | None], Cell]) -> tuple[float | None, ...]:
    cells = [scores.get((task, lr)) for lr in START_RATES]
    return tuple(None if cell is None else round(math.log10(cell.score), 3) for cell in cells)


def short_name(task: str) -> str:
    """Return the name of a task without that of its group."""
    return task.partition("/")[2]
