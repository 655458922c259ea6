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
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from multirate.lab.reporting.bands import thinned
from multirate.lab.reporting.charts import Bar, Chart, Heat, Panel

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
MOST_MAP_LABELS, MAP_LABEL_LENGTH = 12, 18
PANEL, TITLE = (3.3, 2.3), 0.75  # inches
ALONE = 5.2
"""Width of a panel that stands alone: the title has to fit above it."""
TITLE_LENGTH = 36
"""Letters of a panel's title that have room above it; longer ones are written smaller."""
LINE_POINTS = 150


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
        figure, height = _frame(chart, columns, rows)
        figure.suptitle(
            _plain(f"{chart.title} – {subject}"), x=0.12 / figure.get_figwidth(), y=1 - 0.1 / height,
            ha="left", va="top", fontsize=14, fontweight="bold",
        )  # fmt: skip
        axes = figure.subplots(rows, columns, squeeze=False, sharey=chart.one_scale).flatten()
        for axis, panel in zip(axes, chart.panels, strict=False):
            _draw_panel(axis, panel, chart.heat_range)
            if chart.one_scale:
                axis.label_outer()
        for unused in axes[len(chart.panels) :]:
            unused.set_visible(False)
        _explain(figure, chart, list(axes[: len(chart.panels)]))
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=110, pil_kwargs={"compress_level": 4})
    return stream.getvalue()


def _panel_width(columns: int) -> float:
    return ALONE if columns == 1 else PANEL[0]


def _frame(chart: Chart, columns: int, rows: int) -> tuple[Figure, float]:
    """Return a figure with room for the panels, and its height in inches.

    Room is reckoned, not measured: laying out twenty panels by measuring them takes longer than drawing them.
    """
    maps = chart.panels[0].heat is not None
    names = 2.1 if chart.panels[0].bars else None
    left = 1.35 if maps else names or 0.75
    right, across, below = (0.95 if maps else 0.12), (0.16 if chart.one_scale else names or 0.7), 0.72
    bottom = 0.55 + 0.22 * _legend_rows(chart)
    panel = _panel_width(columns)
    width = left + right + columns * panel + (columns - 1) * across
    inside = PANEL[1] * chart.height
    height = TITLE + bottom + rows * inside + (rows - 1) * below
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - TITLE / height,
        wspace=across / panel, hspace=below / inside,
    )  # fmt: skip
    return figure, height


def _legend_columns(chart: Chart) -> int:
    # About seven hundredths of an inch a letter, and half an inch for the line beside it.
    width = chart.columns * _panel_width(chart.columns) / (0.6 + 0.075 * max(map(len, chart.labels)))
    return max(1, min(len(chart.labels), int(width)))


def _legend_rows(chart: Chart) -> int:
    return math.ceil(len(chart.labels) / _legend_columns(chart)) if chart.labels else 0


def _explain(figure: Figure, chart: Chart, axes: Sequence[Axes]) -> None:
    """Add the legend, or the colour bar of maps."""
    width, height = figure.get_size_inches()
    if chart.labels:
        handles = {str(line.get_label()): line for axis in reversed(axes) for line in axis.lines}
        labels = [_plain(label) for label in chart.labels]
        figure.legend(
            [handles[label] for label in labels], labels, loc="lower center", ncols=_legend_columns(chart), fontsize=9,
            borderaxespad=0.2, labelspacing=0.3,
        )  # fmt: skip
    elif chart.panels[0].heat is not None:
        place = figure.add_axes(((width - 0.8) / width, 0.6 / height, 0.14 / width, 1.6 / height))
        figure.colorbar(axes[0].images[0], cax=place, label=f"log10 of the {chart.quantity}")


def _draw_panel(axis: Axes, panel: Panel, heat_range: tuple[float, float]) -> None:
    axis.set_title(_plain(panel.title), fontsize=min(11, 11 * TITLE_LENGTH / max(len(panel.title), 1)))
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.heat is not None:
        _draw_map(axis, panel.heat, heat_range)
        return
    if panel.log_x:
        axis.set_xscale("log")
    if panel.bars:
        _draw_bars(axis, panel.bars)
        return
    if panel.log_y:
        axis.set_yscale("log", nonpositive="clip")
    for line in panel.lines:
        look = line.look
        band = line.band if look.steps else line.band.thinned(LINE_POINTS)
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
    _thin_ticks(axis)


def _draw_map(axis: Axes, heat: Heat, limits: tuple[float, float]) -> None:
    table = np.array(heat.rows, dtype=np.float64)  # None becomes not-a-number
    rows = len(heat.names)
    ends = (heat.x[0] - 0.5, heat.x[-1] + 0.5) if heat.cells else (heat.x[0], max(heat.x[-1], heat.x[0] + 1))
    axis.imshow(
        table, cmap="viridis", vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest",
        extent=(*ends, rows - 0.5, -0.5),
    )  # fmt: skip
    if heat.cells:
        _write_values(axis, heat, limits)
    labelled = thinned(range(rows), MOST_MAP_LABELS)
    axis.set_yticks(labelled, [_plain(heat.names[row][-MAP_LABEL_LENGTH:]) for row in labelled], fontsize=7)
    if heat.cells:
        axis.set_xticks(heat.x)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.grid(visible=False)


def _write_values(axis: Axes, heat: Heat, limits: tuple[float, float]) -> None:
    for row, values in enumerate(heat.rows):
        for x, value in zip(heat.x, values, strict=True):
            if value is not None:
                dark = value < sum(limits) / 2
                axis.text(
                    x, row, f"{10**value:.3g}", ha="center", va="center", fontsize=6.5,
                    color="white" if dark else "black",
                )  # fmt: skip


def _draw_bars(axis: Axes, bars: Sequence[Bar]) -> None:
    places = range(len(bars))
    axis.barh(places, [bar.value - 1 for bar in bars], left=1, color=[bar.color for bar in bars], height=0.7)
    axis.set_yticks(places, [_plain(bar.label) for bar in bars], fontsize=8)
    for place, bar in zip(places, bars, strict=True):
        axis.text(max(bar.value, 1), place, f" {bar.value:.3g}", va="center", fontsize=7.5)
    axis.axvline(1, color="#3c4043", linewidth=1)
    axis.set_axisbelow(True)
    axis.invert_yaxis()
    axis.margins(x=0.12, y=0.01)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _thin_ticks(axis: Axes) -> None:
    # Ticks are what takes longest to draw.
    for scaled, direction in ((axis.get_xscale(), axis.xaxis), (axis.get_yscale(), axis.yaxis)):
        if scaled == "linear":
            direction.set_major_locator(MaxNLocator(4))
            if max(map(abs, direction.get_view_interval())) < 0.01:
                direction.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
                direction.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        else:
            low, high = sorted(direction.get_view_interval())
            few = low > 0 and high < 30 * low
            direction.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=5))
            direction.set_minor_locator(NullLocator())
            if few:
                direction.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _short(value: float) -> str:
    """Write a small number with its power of ten: zeros after the point would need the room of the axis."""
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if float(mantissa) else "0"


def _plain(text: str) -> str:
    """Keep a dollar sign from starting a formula."""
    return text.replace("$", r"\$")
