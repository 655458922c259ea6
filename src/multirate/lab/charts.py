"""Which pictures an experiment is told by; how they are drawn is decided elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from matplotlib import colormaps
from matplotlib.colors import to_hex

from multirate.lab.bands import Band, mean_band, range_band

Curves: TypeAlias = Mapping[str, Any]
Runs: TypeAlias = Mapping[str, Sequence[Curves]]
"""Curves of every seed, by optimizer."""

# Distinguishable with the common forms of colour blindness (Okabe & Ito, darkened where the page is white).
OPTIMIZER_COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#b5379b", "#c48a00",
    "#56a5d8", "#7a4ec7", "#8c564b", "#4d4d4d", "#6b8e23",
)  # fmt: skip
LEVEL_COLORS: Mapping[str, str] = {
    "global": "#0072b2",
    "group": "#7a4ec7",
    "layer": "#d55e00",
    "unit": "#009e73",
    "parameter": "#b5379b",
}


@dataclass(frozen=True)
class Line:
    """A labelled curve with its band."""

    label: str
    color: str
    band: Band


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log_y: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """Panels side by side under one title and one legend.

    Attributes:
        key: Short name for files.
        title: What is seen.
        caption: How to read it.
        panels: From left to right, row by row.
        one_scale: Whether all panels share their vertical axis.
    """

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    one_scale: bool = False

    @property
    def columns(self) -> int:
        """How many panels stand side by side."""
        return min(len(self.panels), 4 if len(self.panels) in (4, 7, 8) else 3)


def build_charts(runs: Runs) -> list[Chart]:
    """Return the charts of one task; those with nothing to show are left out."""
    charts = [learning_chart(runs), rates_chart(runs), weights_chart(runs)]
    return [chart for chart in charts if any(panel.lines for panel in chart.panels)]


def learning_chart(runs: Runs) -> Chart:
    """Return the losses and the accuracy over time."""
    accuracy = _learning_lines(runs, "epoch", "test_accuracy", scale=100.0)
    return Chart(
        "learning",
        "Learning curves",
        "Mean over seeds; the band is one standard error to either side.",
        (
            Panel("Training loss", "step", "loss", _learning_lines(runs, "step", "train_loss"), log_y=True),
            Panel("Test loss", "epoch", "loss", _learning_lines(runs, "epoch", "test_loss"), log_y=True),
            Panel("Test accuracy", "epoch", "%", accuracy, y_range=_late_range(accuracy)),
        ),
    )


def rates_chart(runs: Runs) -> Chart:
    """Return the rate of every layer over time, a panel for every optimizer, all to one scale."""
    layers = list(
        dict.fromkeys(layer for seeds in runs.values() for curves in seeds for layer in curves["layer_rates"])
    )
    colors = dict(zip(layers, _spread(len(layers)), strict=True))
    panels = [
        (
            name,
            tuple(
                Line(layer, colors[layer], _over_seeds(seeds, "layer_rates", layer, logarithmic=True))
                for layer in layers
                if any(layer in curves["layer_rates"] for curves in seeds)
            ),
        )
        for name, seeds in runs.items()
    ]
    limits = _log_range([line for _, lines in panels for line in lines])
    return Chart(
        "rates",
        "Learning rate of every layer",
        "The rate really applied, averaged over the layer's elements; geometric mean over seeds, the band "
        "reaches from the lowest seed to the highest. All panels share one scale.",
        tuple(Panel(name, "step", "learning rate", lines, log_y=True, y_range=limits) for name, lines in panels),
        one_scale=True,
    )


def weights_chart(runs: Runs) -> Chart:
    """Return the combination weights over time, a panel for every optimizer that has some."""
    panels = []
    for name, seeds in runs.items():
        levels = list(dict.fromkeys(level for curves in seeds for level in curves["weights"]))
        spare = dict(zip(levels, OPTIMIZER_COLORS * len(levels), strict=False))  # for levels a user named
        lines = tuple(
            Line(
                level,
                LEVEL_COLORS[level] if level in LEVEL_COLORS else spare[level],
                _over_seeds(seeds, "weights", level, logarithmic=False),
            )
            for level in levels
        )
        if lines:
            panels.append(Panel(name, "step", "weight", lines, y_range=(0.0, 1.0)))
    return Chart(
        "weights",
        "Combination weights of the levels",
        "How much each level counts in the combined rate; mean over seeds, the band reaches from the lowest "
        "seed to the highest.",
        tuple(panels),
        one_scale=True,
    )


def _learning_lines(runs: Runs, x: str, y: str, *, scale: float = 1.0) -> tuple[Line, ...]:
    colors = OPTIMIZER_COLORS * (len(runs) // len(OPTIMIZER_COLORS) + 1)
    return tuple(
        Line(
            name,
            color,
            mean_band([curves[x] for curves in seeds], [curves[y] for curves in seeds], scale=scale),
        )
        for (name, seeds), color in zip(runs.items(), colors, strict=False)
    )


def _over_seeds(seeds: Sequence[Curves], kind: str, key: str, *, logarithmic: bool) -> Band:
    having = [curves for curves in seeds if key in curves[kind]]
    axes = [curves["rate_steps"] for curves in having]
    return range_band(axes, [curves[kind][key] for curves in having], logarithmic=logarithmic)


def _spread(count: int) -> list[str]:
    """Return so many colours in order, from dark to light, the palest left out."""
    return [to_hex(colormaps["plasma"](0.85 * index / max(count - 1, 1))) for index in range(count)]


def _late_range(lines: Sequence[Line]) -> tuple[float, float] | None:
    # The first epochs lie so far below that the rest would be pressed into a line at the top.
    late = [value for line in lines for value in line.band.low[max(1, len(line.band.low) // 6) :]]
    highest = max((value for line in lines for value in line.band.high), default=0.0)
    if not late or highest <= min(late):
        return None
    margin = 0.05 * (highest - min(late))
    return min(late) - margin, highest + margin


def _log_range(lines: Sequence[Line]) -> tuple[float, float] | None:
    values = [value for line in lines for value in (*line.band.low, *line.band.high)]
    return (min(values) / 1.5, max(values) * 1.5) if values else None
