"""The charts of one task that show how training went, from the curves of its trials."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from multirate.lab.reporting.bands import mean_band, mean_logarithm, quantiles, range_band, thinned
from multirate.lab.reporting.charts import COLORS, LEVEL_COLORS, Chart, Heat, Line, Look, Panel, ordered_colors
from multirate.lab.reporting.summaries import Curves

Runs: TypeAlias = Mapping[str, Sequence[Curves]]
"""Curves of every seed, by the method that is shown."""

MOST_LINES = 12
MOST_ROWS = 160
HEAT_CELLS = 40_000
LEVEL_RATES = (
    "Before the levels are combined; nodes finer than a tensor, but for gates, are averaged over their tensor."
)
QUANTILES: Mapping[str, float] = {
    "lowest node": 0.0,
    "lower quartile of nodes": 0.25,
    "median node": 0.5,
    "upper quartile of nodes": 0.75,
    "highest node": 1.0,
}


def curve_charts(runs: Runs, looks: Mapping[str, Look]) -> list[Chart]:
    """Return the charts of one task; panels and charts with nothing to show are left out.

    Args:
        runs: Curves of every seed, by method.
        looks: How each method is drawn.
    """
    charts = [
        learning_chart(runs, looks),
        rates_chart(runs),
        *level_charts(runs),
        *heat_charts(runs),
        weights_chart(runs),
        *agreement_charts(runs),
    ]
    return [chart for chart in charts if chart.panels]


def learning_chart(runs: Runs, looks: Mapping[str, Look]) -> Chart:
    """Return the losses and the accuracy over time."""
    training = _learning_lines(runs, looks, "step", "train_loss")
    test = _learning_lines(runs, looks, "epoch", "test_loss")
    accuracy = _learning_lines(runs, looks, "epoch", "test_accuracy", scale=100.0)
    panels = (
        _loss_panel("Training loss", "step", training),
        _loss_panel("Test loss", "epoch", test),
        Panel("Test accuracy", "epoch", "%", accuracy, y_range=_late_range(accuracy)),
    )
    return Chart(
        "learning",
        "Learning curves",
        "Mean over seeds; the band is one standard error to either side.",
        tuple(panel for panel in panels if panel.lines),
    )


def rates_chart(runs: Runs) -> Chart:
    """Return the rate of every layer over time, a panel for every optimizer, all to one scale."""
    some, panels = rate_panels(runs, ("layer_rates",), "layers", one_scale=True)
    return Chart(
        "rates",
        "Learning rate of every layer",
        f"{some}The rate really applied, averaged over the layer's elements; geometric mean over seeds, the band "
        "reaches from the lowest seed to the highest. All panels share one scale.",
        panels,
        one_scale=True,
    )


def level_charts(runs: Runs) -> list[Chart]:
    """Return the rates that the nodes of every level learned over time, a chart for every level."""
    charts = []
    for level, key in _file_keys("rates", _levels(runs, "rates")).items():
        some, panels = rate_panels(runs, ("rates", level), "nodes", one_scale=False)
        charts.append(
            Chart(
                key,
                f"Learned rates of the level “{level}”",
                f"{some}{LEVEL_RATES} Geometric mean over seeds, the band reaches from the lowest seed to the highest. "
                "Each panel has its own scale.",
                panels,
            )
        )
    return charts


def rate_panels(runs: Runs, path: tuple[str, ...], what: str, *, one_scale: bool) -> tuple[str, tuple[Panel, ...]]:
    """Return what is said where not every node is drawn, and a panel for every method that has some.

    Args:
        runs: Curves of every seed, by method.
        path: Where a trial's curves have those of the nodes.
        what: What nodes are called.
        one_scale: Whether all panels share one scale.
    """
    nodes = _keys(_part(curves, path) for seeds in runs.values() for curves in seeds)
    chosen = _spaced(nodes, MOST_LINES)
    looks = {node: Look(color) for node, color in zip(chosen, ordered_colors(len(chosen)), strict=True)}
    lines = {name: _node_lines(seeds, path, looks, logarithmic=True) for name, seeds in runs.items()}
    every = _log_range([line for found in lines.values() for line in found])
    some = f"{len(chosen)} of the {len(nodes)} {what}, from the first to the last. " if chosen != nodes else ""
    # Beside the numbers of a panel in the middle there is no room for more.
    y_label = "learning rate" if one_scale else ""
    panels = []
    for name, found in lines.items():
        if found:
            panel = Panel(name, "step", y_label, found, log_y=True, y_range=every)
            panels.append(panel if one_scale else _alone(panel))
    return some, tuple(panels)


def _alone(panel: Panel) -> Panel:
    """Give a panel its own scale, an even one where rates moved so little that powers of ten would show nothing."""
    values = [value for line in panel.lines for value in (*line.band.low, *line.band.high)]
    if max(values) > 5 * min(values):
        return replace(panel, y_range=_log_range(panel.lines))
    margin = max(0.1 * (max(values) - min(values)), 0.05 * min(values))
    return replace(panel, log_y=False, y_range=(min(values) - margin, max(values) + margin))


def heat_charts(runs: Runs) -> list[Chart]:
    """Return the rates of all nodes as maps: those applied to the layers, and those that every level learned."""
    layers = _heat_panels(runs, ("layer_rates",))
    charts = [
        Chart(
            "rates-map",
            "Learning rate of every layer, as a map",
            "The rate really applied, averaged over the layer's elements; geometric mean over seeds. The first layer "
            "is at the top, and all panels share one colour scale.",
            layers,
            one_scale=True,
        )
    ]
    charts += [
        Chart(
            key,
            f"Learned rates of the level “{level}”, as a map",
            f"{LEVEL_RATES} Geometric mean over seeds; all panels share one colour scale.",
            _heat_panels(runs, ("rates", level)),
            one_scale=True,
        )
        for level, key in _file_keys("rates-map", _levels(runs, "rates")).items()
    ]
    return [chart for chart in charts if chart.panels]


def weights_chart(runs: Runs) -> Chart:
    """Return the combination weights over time, a panel for every optimizer that has some."""
    levels = _keys(curves.get("weights", {}) for seeds in runs.values() for curves in seeds)
    # The spare colours are for levels that a user named.
    spare = iter(COLORS * (len(levels) // len(COLORS) + 1))
    looks = {level: Look(LEVEL_COLORS[level] if level in LEVEL_COLORS else next(spare)) for level in levels}
    panels = [(name, _node_lines(seeds, ("weights",), looks, logarithmic=False)) for name, seeds in runs.items()]
    return Chart(
        "weights",
        "Combination weights of the levels",
        "How much each level counts in the combined rate; mean over seeds, the band reaches from the lowest "
        "seed to the highest.",
        tuple(Panel(name, "step", "weight", lines, y_range=(0.0, 1.03)) for name, lines in panels if lines),
        one_scale=True,
    )


def agreement_charts(runs: Runs) -> list[Chart]:
    """Return the agreement of successive gradients in every node, a chart for every level."""
    charts = []
    for level, key in _file_keys("agreement", _levels(runs, "agreement")).items():
        nodes = _keys(_part(curves, ("agreement", level)) for seeds in runs.values() for curves in seeds)
        many = len(nodes) > MOST_LINES
        names = list(QUANTILES) if many else nodes
        looks = {name: Look(color) for name, color in zip(names, ordered_colors(len(names)), strict=True)}
        panels = []
        for name, seeds in runs.items():
            path = ("agreement", level)
            shown = [_with_quantiles(curves, level) for curves in seeds] if many else seeds
            if lines := _node_lines(shown, path, looks, logarithmic=False):
                panels.append(Panel(name, "step", "agreement", lines, y_range=_central_range(lines)))
        what = "quantiles over the nodes" if many else "every node"
        charts.append(
            Chart(
                key,
                f"Agreement at the level “{level}”",
                f"How far a gradient agrees with the step before, the signal that rates learn from: above zero the "
                f"rate should grow. Shown: {what}; mean over seeds, the band reaches from the lowest seed to the "
                "highest. Each panel has its own scale, which leaves out rare extremes.",
                tuple(panels),
            )
        )
    return [chart for chart in charts if chart.panels]


def _loss_panel(title: str, x_label: str, lines: tuple[Line, ...]) -> Panel:
    values = [value for line in lines for value in line.band.center]
    if not values or min(values) <= 0:
        return Panel(title, x_label, "loss", lines)
    # A run that diverges must not press all others into one line.
    ceiling = 10 * max(line.band.center[0] for line in lines)
    highest = max(value for line in lines for value in line.band.high)
    limits = min(values) / 1.3, 1.2 * min(highest, max(ceiling, 1.01 * min(values)))
    return Panel(title, x_label, "loss", lines, log_y=True, y_range=limits)


def _learning_lines(runs: Runs, looks: Mapping[str, Look], x: str, y: str, *, scale: float = 1.0) -> tuple[Line, ...]:
    lines = []
    for name, seeds in runs.items():
        having = [curves for curves in seeds if x in curves and y in curves]
        band = mean_band([curves[x] for curves in having], [curves[y] for curves in having], scale=scale)
        if band.x:
            lines.append(Line(name, looks[name], band))
    return tuple(lines)


def _node_lines(
    seeds: Sequence[Curves], path: tuple[str, ...], looks: Mapping[str, Look], *, logarithmic: bool
) -> tuple[Line, ...]:
    lines = []
    for node, look in looks.items():
        having = [curves for curves in seeds if node in _part(curves, path)]
        axes = [curves["rate_steps"] for curves in having]
        band = range_band(axes, [_part(curves, path)[node] for curves in having], logarithmic=logarithmic)
        if band.x:
            lines.append(Line(node, look, band))
    return tuple(lines)


def _heat_panels(runs: Runs, path: tuple[str, ...]) -> tuple[Panel, ...]:
    nodes = _spaced(_keys(_part(curves, path) for seeds in runs.values() for curves in seeds), MOST_ROWS)
    having = {name: seeds for name, seeds in runs.items() if any(_part(curves, path) for curves in seeds)}
    if len(nodes) < 2:
        return ()
    most = min(200, max(30, HEAT_CELLS // (len(nodes) * len(having))))
    return tuple(Panel(name, "step", "", heat=_heat(seeds, path, nodes, most)) for name, seeds in having.items())


def _heat(seeds: Sequence[Curves], path: tuple[str, ...], nodes: Sequence[str], most: int) -> Heat:
    axis = max((curves["rate_steps"] for curves in seeds), key=len)
    kept = thinned(range(len(axis)), most)
    rows = []
    for node in nodes:
        means = mean_logarithm([_part(curves, path).get(node, []) for curves in seeds])
        rows.append(tuple(means[index] if index < len(means) else None for index in kept))
    return Heat(tuple(float(axis[index]) for index in kept), tuple(nodes), tuple(rows))


def _with_quantiles(curves: Curves, level: str) -> Curves:
    nodes = list(_part(curves, ("agreement", level)).values())
    series = dict(zip(QUANTILES, quantiles(nodes, list(QUANTILES.values())), strict=True)) if nodes else {}
    return {"rate_steps": curves.get("rate_steps", []), "agreement": {level: series}}


def _part(curves: Curves, path: tuple[str, ...]) -> Mapping[str, Sequence[float | None]]:
    part: Curves = curves
    for key in path:
        part = part.get(key, {})
    return part


def _levels(runs: Runs, kind: str) -> list[str]:
    return _keys(curves.get(kind, {}) for seeds in runs.values() for curves in seeds)


def _keys(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _spaced(names: Sequence[str], most: int) -> list[str]:
    """Return at most so many names, evenly chosen, the first and the last among them."""
    count = min(len(names), most)
    return [names[round(index * (len(names) - 1) / max(count - 1, 1))] for index in range(count)]


def _file_keys(prefix: str, levels: Sequence[str]) -> dict[str, str]:
    """Return a key for every level, fit for a file name whatever the user named the level."""
    keys: dict[str, str] = {}
    for level in levels:
        key = f"{prefix}-{re.sub('[^a-z0-9]+', '-', level.lower()).strip('-') or 'level'}"[:60]
        keys[level] = key if key not in keys.values() else f"{key}-{len(keys)}"
    return keys


def _late_range(lines: Sequence[Line]) -> tuple[float, float] | None:
    # The first epochs lie so far below that the rest would be pressed into a line at the top.
    late = [value for line in lines for value in line.band.low[max(1, len(line.band.low) // 6) :]]
    highest = max((value for line in lines for value in line.band.high), default=0.0)
    if not late or highest <= min(late):
        return None
    margin = 0.05 * (highest - min(late))
    return min(late) - margin, highest + margin


def _central_range(lines: Sequence[Line]) -> tuple[float, float] | None:
    low, high = np.quantile([value for line in lines for value in line.band.center], (0.02, 0.98))
    margin = 0.15 * float(high - low)
    return (min(float(low), 0.0) - margin, max(float(high), 0.0) + margin) if margin else None


def _log_range(lines: Sequence[Line]) -> tuple[float, float] | None:
    values = [value for line in lines for value in (*line.band.low, *line.band.high)]
    return (min(values) / 1.5, max(values) * 1.5) if values else None
