"""The charts that show how training ended, from the results of trials."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from multirate.lab.judging.profiles import performance_profiles, ratio_grid
from multirate.lab.reporting.bands import Band
from multirate.lab.reporting.charts import Chart, Line, Look, Panel
from multirate.lab.reporting.families import Family

WIDEST_RATIO = 4.0
"""Where the axis of performance profiles ends: a method this far from the best one earns nothing."""


def robustness_chart(families: Sequence[Family], looks: Mapping[str, Look]) -> Chart:
    """Return the final loss of every family over the learning rate it began with."""
    lines = tuple(
        Line(
            family.name,
            replace(looks[family.method], markers=True),
            _loss_band(family),
            tuple(point.lr for point in family.curve if point.diverged),
        )
        for family in families
    )
    values = [value for line in lines for value in (*line.band.low, *line.band.high)]
    positive = bool(values) and min(values) > 0
    limits = (min(values) / 1.5, 1.5 * max(values)) if positive else None
    panel = Panel("", "initial learning rate", "final test loss", lines, log_x=True, log_y=positive, y_range=limits)
    return Chart(
        "robustness",
        "Final loss against the initial learning rate",
        "Median over seeds, where a diverged seed counts as the worst; the band reaches from the lowest seed to the "
        "highest. A cross at the upper edge marks a learning rate with diverged seeds.",
        (panel,) if families else (),
    )


def profile_chart(
    losses: Mapping[str, Mapping[str, Sequence[float | None]]], looks: Mapping[str, Look]
) -> Chart | None:
    """Return the performance profiles of the final test loss over several tasks.

    Args:
        losses: Final losses over seeds, by task and then by method; None for a seed that diverged.
        looks: How each method is drawn.

    Returns:
        The chart; None below two tasks with positive losses or below two methods that ran on all of them.
    """
    costs = {task: {name: _cost(values) for name, values in row.items()} for task, row in losses.items()}
    # A ratio of losses means nothing where one of them is zero or less.
    kept = {task: row for task, row in costs.items() if all(cost is None or cost > 0 for cost in row.values())}
    shared = [name for name in next(iter(kept.values()), {}) if all(name in row for row in kept.values())]
    if len(kept) < 2 or len(shared) < 2:
        return None
    profiles = performance_profiles({task: {name: row[name] for name in shared} for task, row in kept.items()})
    corners = [ratio for ratio in ratio_grid(profiles.values()) if ratio < WIDEST_RATIO] + [WIDEST_RATIO]
    lines = []
    for name, profile in profiles.items():
        shares = tuple(100 * profile.at(ratio) for ratio in corners)
        band = Band(tuple(corners), shares, shares, shares)
        lines.append(Line(name, replace(looks[name], steps=True), band))
    panel = Panel("", "final test loss / lowest of the task", "% of tasks", tuple(lines), log_x=True, y_range=(0, 103))
    return Chart(
        "profile",
        f"Performance profile over {len(kept)} tasks",
        "On which share of the tasks the final test loss (median over seeds) is within a factor of the lowest one. "
        "Higher and further left is better. Only methods that ran on all these tasks are compared.",
        (panel,),
    )


def _loss_band(family: Family) -> Band:
    solved = [(point.lr, point.median, point.low, point.high) for point in family.curve]
    known = [
        (lr, median, low, high)
        for lr, median, low, high in solved
        if median is not None and low is not None and high is not None
    ]
    return Band(
        tuple(lr for lr, _, _, _ in known),
        tuple(median for _, median, _, _ in known),
        tuple(low for _, _, low, _ in known),
        tuple(high for _, _, _, high in known),
    )


def _cost(losses: Sequence[float | None]) -> float | None:
    median = statistics.median(math.inf if loss is None else loss for loss in losses)
    return float(median) if math.isfinite(median) else None
