"""Charts as interactive Plotly figures, each with a layout for wide pages and one for narrow ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, TypeAlias

from multirate.lab.reporting.bands import thinned
from multirate.lab.reporting.charts import Bar, Chart, Heat, Line, Panel

Plain: TypeAlias = dict[str, Any]

PANEL_HEIGHT = 230  # pixels, of the area inside the axes
ROW_GAP = 88  # for the labels of an axis and the title of the panel below
TOP, BARE_TOP, BOTTOM = 34, 14, 64
COLOR_BAR = 30
LEGEND_ROW = 20
WIDE, NARROW = 1100, 320  # pixels of the legend's width, as expected
LINE_POINTS = 12_000
HEAT_LABELS, HEAT_LABEL_LENGTH = 12, 16
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
GRID, AXIS, INK, SOFT = "#e8eaed", "#9aa0a6", "#202124", "#3c4043"


def plot(chart: Chart) -> Plain:
    """Return a chart as the data of a Plotly figure and its layouts, `layout` and `narrow`.

    Plotly reads names as markup, so that they are escaped here.
    """
    data: list[Plain] = []
    shown: set[str] = set()
    lines = sum(len(panel.lines) for panel in chart.panels)
    points = min(300, max(50, LINE_POINTS // max(lines, 1)))
    for index, panel in enumerate(chart.panels):
        axes = {"xaxis": _axis("x", index), "yaxis": _axis("y", index)}
        if panel.heat is not None:
            data.append({**_map(panel.heat, panel.x_label), **axes})
        if panel.bars:
            data.append({**_bars(panel.bars), **axes})
        for line in panel.lines:
            data += [{**trace, **axes} for trace in _traces(line, panel, points, in_legend=line.label not in shown)]
            shown.add(line.label)
    return {"data": data, "layout": _layout(chart, chart.columns, WIDE), "narrow": _layout(chart, 1, NARROW)}


def _traces(line: Line, panel: Panel, points: int, *, in_legend: bool) -> list[Plain]:
    band = line.band if line.look.steps else line.band.thinned(points)
    name = _escaped(line.label)
    shape = {"shape": "hv"} if line.look.steps else {}
    center: Plain = {
        "type": "scatter",
        "x": band.x,
        "y": band.center,
        "name": name,
        "legendgroup": name,
        "showlegend": in_legend,
        "mode": "lines+markers" if line.look.markers else "lines",
        "line": {"color": line.look.color, "width": 2, "dash": line.look.dash, **shape},
        "hovertemplate": "%{y:.4~g}",
    }
    traces = [center]
    if band.low != band.high:
        traces.insert(0, _edge(line, name, points))
    if line.failures:
        traces.append(_failures(line, panel, name))
    return traces


def _edge(line: Line, name: str, points: int) -> Plain:
    """Return the band as one closed outline."""
    band = line.band.thinned(points)
    # On a logarithmic axis an edge at or below zero would tear the outline.
    low = [max(low, 1e-3 * center) if center > 0 else low for low, center in zip(band.low, band.center, strict=True)]
    return {
        "type": "scatter",
        "x": [*band.x, *reversed(band.x)],
        "y": [*band.high, *reversed(low)],
        "legendgroup": name,
        "showlegend": False,
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": _translucent(line.look.color),
        "hoverinfo": "skip",
    }


def _failures(line: Line, panel: Panel, name: str) -> Plain:
    top = panel.y_range[1] if panel.y_range else max(line.band.high, default=1.0)
    return {
        "type": "scatter",
        "x": line.failures,
        "y": [top] * len(line.failures),
        "legendgroup": name,
        "showlegend": False,
        "mode": "markers",
        "cliponaxis": False,
        "marker": {"symbol": "x", "size": 9, "color": line.look.color},
        "hovertemplate": "diverged",
        "name": name,
    }


def _map(heat: Heat, x_label: str) -> Plain:
    written: Plain = {}
    if heat.cells:
        texts = [["" if value is None else f"{10**value:.3g}" for value in row] for row in heat.rows]
        written = {"text": texts, "texttemplate": "%{text}", "textfont": {"size": 10}}
    return {
        **written,
        "type": "heatmap",
        "x": heat.x,
        "y": [_escaped(name) for name in heat.names],
        "z": heat.rows,
        "coloraxis": "coloraxis",
        "hovertemplate": f"%{{y}}<br>{_escaped(x_label)} %{{x}}<br>10<sup>%{{z:.2f}}</sup><extra></extra>",
    }


def _bars(bars: Sequence[Bar]) -> Plain:
    return {
        "type": "bar",
        "orientation": "h",
        "x": [bar.value - 1 for bar in bars],
        "base": [1] * len(bars),
        "y": [_escaped(bar.label) for bar in bars],
        "marker": {"color": [bar.color for bar in bars]},
        "text": [f"{bar.value:.3g}" for bar in bars],
        "textposition": "outside",
        "cliponaxis": False,
        "showlegend": False,
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }


def _layout(chart: Chart, columns: int, width: int) -> Plain:
    rows = math.ceil(len(chart.panels) / columns)
    panel_height = round(PANEL_HEIGHT * chart.height)
    inside = rows * panel_height + (rows - 1) * ROW_GAP
    legend = _legend_rows(chart.labels, width) * LEGEND_ROW
    across = columns == 1 and width == NARROW
    bottom = BOTTOM + legend + (COLOR_BAR if across and chart.panels[0].heat else 0)
    top = TOP if any(panel.title for panel in chart.panels) else BARE_TOP
    layout: Plain = {
        "height": top + inside + bottom,
        "margin": {"l": 58, "r": 16, "t": top, "b": bottom, "autoexpand": True},
        "font": {"family": FONT, "color": SOFT, "size": 12},
        "colorway": [],
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "showlegend": bool(chart.labels),
        "legend": {
            "orientation": "h", "xanchor": "left", "x": 0, "yanchor": "bottom", "y": 0, "yref": "container",
            "groupclick": "togglegroup", "itemsizing": "constant", "font": {"size": 12},
        },
        "hovermode": "x unified" if chart.panels[0].lines else "closest",
        "hoverlabel": {"namelength": -1},
        "annotations": [],
    }  # fmt: skip
    if chart.panels[0].heat:
        layout["coloraxis"] = _color_axis(*chart.heat_range, chart.quantity, across=across)
    for index, panel in enumerate(chart.panels):
        row, column = divmod(index, columns)
        left, right = _share(column, columns, gap=0.035 if chart.one_scale else 0.06)
        upper = 1 - row * (panel_height + ROW_GAP) / inside
        suffix = "" if index == 0 else str(index + 1)
        labelled = column == 0 or not chart.one_scale
        layout[f"xaxis{suffix}"] = _x_axis(panel, index, [left, right])
        layout[f"yaxis{suffix}"] = _y_axis(
            chart, panel, index, [max(upper - panel_height / inside, 0), upper], labelled
        )
        # About six tenths of its height a letter; a title that is too long for its panel is written smaller.
        size = min(13.0, round((right - left) * width / (0.6 * max(len(panel.title), 1)), 1))
        layout["annotations"].append(
            {
                "text": f"<b>{_escaped(panel.title)}</b>", "font": {"size": size, "color": INK}, "showarrow": False,
                "xref": "paper", "x": left, "xanchor": "left", "yref": "paper", "y": upper, "yanchor": "bottom",
            }
        )  # fmt: skip
    return layout


def _x_axis(panel: Panel, index: int, domain: Sequence[float]) -> Plain:
    axis = {
        "domain": domain, "anchor": _axis("y", index), "title": {"text": _escaped(panel.x_label), "standoff": 6},
        "gridcolor": GRID, "linecolor": AXIS, "showline": True, "zeroline": False, "ticks": "outside", "ticklen": 4,
        "tickcolor": AXIS, "nticks": 5,
    }  # fmt: skip
    if panel.log_x:
        positions = [x for line in panel.lines for x in (*line.band.x, *line.failures) if x > 0]
        positions += [bar.value for bar in panel.bars] + [1.0] * bool(panel.bars)
        low, high = min(positions, default=1.0), max(positions, default=1.0)
        axis |= {"type": "log", **_log_ticks(low, high)}
    return axis


def _y_axis(chart: Chart, panel: Panel, index: int, domain: Sequence[float], labelled: bool) -> Plain:
    axis: Plain = {
        "domain": domain, "anchor": _axis("x", index), "gridcolor": GRID, "linecolor": AXIS, "zeroline": False,
        "showticklabels": labelled, "automargin": "left", "nticks": 6, "exponentformat": "power",
    }  # fmt: skip
    if labelled and panel.y_label:
        axis["title"] = {"text": _escaped(panel.y_label), "standoff": 8}
    if chart.one_scale and index:
        axis["matches"] = "y"
    if panel.heat is not None:
        names = thinned(panel.heat.names, HEAT_LABELS)
        return axis | {
            "type": "category", "autorange": "reversed", "tickmode": "array", "showgrid": False,
            "tickvals": [_escaped(name) for name in names], "ticktext": [_escaped(_shortened(name)) for name in names],
        }  # fmt: skip
    if panel.bars:
        return axis | {"autorange": "reversed", "showgrid": False, "tickmode": "linear"}
    if panel.log_y and panel.y_range is not None:
        axis |= {"type": "log", **_log_ticks(*panel.y_range)}
    if panel.y_range is not None:
        axis["range"] = [math.log10(end) for end in panel.y_range] if panel.log_y else list(panel.y_range)
    return axis


def _color_axis(low: float, high: float, quantity: str, *, across: bool) -> Plain:
    # Where all rates are equal, the scale still needs some width.
    low, high = (low, high) if high - low > 0.1 else (low - 0.1, high + 0.1)
    ticks = _log_ticks(10**low, 10**high)
    bar: Plain = {
        "title": {"text": quantity}, "thickness": 12, "outlinewidth": 0,
        "tickvals": [math.log10(value) for value in ticks["tickvals"]], "ticktext": ticks["ticktext"],
    }  # fmt: skip
    if across:
        # Beside a single column the bar would take a fifth of a narrow page.
        bar |= {"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "thickness": 9}
        bar["title"] = {"text": ""}
    return {"colorscale": "Viridis", "cmin": low, "cmax": high, "colorbar": bar}


def _log_ticks(low: float, high: float) -> Plain:
    """Return ticks at powers of ten, or closer where fewer than two powers lie within the ends."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [power for power in range(first, last + 1) if low <= 10.0**power <= high]
    if len(powers) > 2:
        kept = powers[:: math.ceil(len(powers) / 6)]
        return {"tickvals": [10.0**power for power in kept], "ticktext": [_power_text(1, power) for power in kept]}
    for mantissas in ((1, 3), (1, 2, 5), tuple(range(1, 10)), tuple(tenth / 10 for tenth in range(10, 100))):
        near = [
            (mantissa, power)
            for power in range(first, last + 1)
            for mantissa in mantissas
            if low <= mantissa * 10.0**power <= high
        ]
        if len(near) > 2:
            break
    near = thinned(near, 6)
    return {
        "tickvals": [mantissa * 10.0**power for mantissa, power in near],
        "ticktext": [_power_text(mantissa, power) for mantissa, power in near],
    }


def _power_text(mantissa: float, power: int) -> str:
    if -3 <= power <= 3:
        return f"{mantissa * 10.0**power:g}"
    factor = "" if mantissa == 1 else f"{mantissa:g}·"
    return f"{factor}10<sup>{power}</sup>".replace("-", "−")


def _legend_rows(labels: Sequence[str], width: int) -> int:
    if not labels:
        return 0
    # Plotly gives every entry of a horizontal legend the width of the longest.
    entry = 48 + 7 * max(len(label) for label in labels)
    return math.ceil(len(labels) / max(1, width // entry))


def _share(column: int, columns: int, *, gap: float) -> tuple[float, float]:
    width = (1 - gap * (columns - 1)) / columns
    return column * (width + gap), min(column * (width + gap) + width, 1.0)


def _axis(letter: str, index: int) -> str:
    return letter if index == 0 else f"{letter}{index + 1}"


def _shortened(name: str) -> str:
    return name if len(name) <= HEAT_LABEL_LENGTH else f"…{name[1 - HEAT_LABEL_LENGTH :]}"


def _translucent(color: str) -> str:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _escaped(text: str) -> str:
    # Plotly knows no entity for quotation marks, and inside an element they need none.
    return escape(text, quote=False)
