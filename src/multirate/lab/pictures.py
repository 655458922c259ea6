"""Charts as PNG pictures."""

from __future__ import annotations

import io
import math
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multirate.lab.charts import Chart, Panel

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
            _draw_panel(axis, panel)
            if chart.one_scale:
                axis.label_outer()
        for unused in axes[len(chart.panels) :]:
            unused.set_visible(False)
        handles = {str(line.get_label()): line for axis in axes for line in axis.lines}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(len(handles), 6))
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _draw_panel(axis: Axes, panel: Panel) -> None:
    axis.set_title(_plain(panel.title))
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.log_y:
        axis.set_yscale("log", nonpositive="clip")
    for line in panel.lines:
        band = line.band
        axis.fill_between(band.x, band.low, band.high, color=line.color, alpha=0.18, linewidth=0)
        axis.plot(band.x, band.center, color=line.color, label=_plain(line.label))
    if panel.y_range is not None:
        axis.set_ylim(*panel.y_range)
    axis.margins(x=0.01)


def _plain(text: str) -> str:
    """Keep a dollar sign from starting a formula."""
    return text.replace("$", r"\$")
