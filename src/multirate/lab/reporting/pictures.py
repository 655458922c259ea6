"""Charts as PNG pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multirate.lab.reporting.bands import thinned
from multirate.lab.reporting.charts import Chart, Heat, Panel

STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#9aa0a6",
    "axes.grid": True,
    "axes.labelcolor": "#3c4043",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": "#e8eaed",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "xtick.color": "#5f6368",
    "ytick.color": "#5f6368",
}
LINE_STYLES: Mapping[str, str] = {"solid": "-", "dash": "--", "dot": ":"}
MOST_MAP_LABELS = 14


def draw_png(chart: Chart, subject: str) -> bytes:
    """Draw a chart.

    Args:
        chart: What to draw.
        subject: What it is about, for the title: the name of the task.

    Returns:
        The bytes of a PNG file.
    """
    columns = chart.columns
    rows = math.ceil(len(chart.panels) / columns)
    # A figure of its own, not pyplot's: nothing global is touched and nothing has to be closed.
    with rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 3.3 * rows + 1.0), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(_plain(f"{chart.title} – {subject}"), x=0.008, ha="left", fontsize=14, fontweight="bold")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=chart.one_scale).flatten()
        for axis, panel in zip(axes, chart.panels, strict=False):
            _draw_panel(axis, panel, chart.heat_range)
            if chart.one_scale:
                axis.label_outer()
        for unused in axes[len(chart.panels) :]:
            unused.set_visible(False)
        _explain(figure, chart, list(axes[: len(chart.panels)]))
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _explain(figure: Figure, chart: Chart, axes: Sequence[Axes]) -> None:
    """Add the legend, or the colour bar of maps."""
    if chart.labels:
        handles = {str(line.get_label()): line for axis in reversed(axes) for line in axis.lines}
        labels = [_plain(label) for label in chart.labels]
        figure.legend(
            [handles[label] for label in labels],
            labels,
            loc="outside lower center",
            ncols=max(1, min(len(labels), int(36 * chart.columns / (4 + max(map(len, labels)))))),
        )
    else:
        figure.colorbar(axes[0].images[0], ax=axes, label="log10 of the rate", pad=0.01, fraction=0.03)


def _draw_panel(axis: Axes, panel: Panel, heat_range: tuple[float, float]) -> None:
    axis.set_title(_plain(panel.title))
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.heat is not None:
        _draw_map(axis, panel.heat, heat_range)
        return
    if panel.log_x:
        axis.set_xscale("log")
    if panel.log_y:
        axis.set_yscale("log", nonpositive="clip")
    for line in panel.lines:
        band, look = line.band, line.look
        if band.low != band.high:
            axis.fill_between(band.x, band.low, band.high, color=look.color, alpha=0.18, linewidth=0)
        axis.plot(
            band.x, band.center, color=look.color, label=_plain(line.label), linestyle=LINE_STYLES[look.dash],
            marker="o" if look.markers else None, markersize=4,
            drawstyle="steps-post" if look.steps else "default",
        )  # fmt: skip
    if panel.y_range is not None:
        axis.set_ylim(*panel.y_range)
    top = axis.get_ylim()[1]
    for line in panel.lines:
        axis.scatter(line.failures, [top] * len(line.failures), color=line.look.color, marker="x", clip_on=False)
    axis.margins(x=0.01)


def _draw_map(axis: Axes, heat: Heat, limits: tuple[float, float]) -> None:
    table = np.array(heat.rows, dtype=np.float64)  # None becomes not-a-number
    rows = len(heat.names)
    axis.imshow(
        table, cmap="viridis", vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest",
        extent=(heat.x[0], max(heat.x[-1], heat.x[0] + 1), rows - 0.5, -0.5),
    )  # fmt: skip
    labelled = thinned(range(rows), MOST_MAP_LABELS)
    axis.set_yticks(labelled, [_plain(heat.names[row]) for row in labelled], fontsize=7)
    axis.grid(visible=False)


def _plain(text: str) -> str:
    """Keep a dollar sign from starting a formula."""
    return text.replace("$", r"\$")
