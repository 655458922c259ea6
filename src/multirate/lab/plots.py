"""Charts as interactive Plotly figures."""

from __future__ import annotations

import json
import math
from html import escape
from typing import Any

from plotly.graph_objects import Figure, Scatter
from plotly.subplots import make_subplots

from multirate.lab.charts import Chart, Line, Panel

ROW_HEIGHT = 330
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


def plot(chart: Chart) -> dict[str, Any]:
    """Return a chart as the data and layout of a Plotly figure.

    Plotly reads names as markup, so that they are escaped here.
    """
    columns = chart.columns
    rows = math.ceil(len(chart.panels) / columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"<b>{escape(panel.title)}</b>" for panel in chart.panels],
        shared_yaxes="all" if chart.one_scale else False,
        horizontal_spacing=0.03 if chart.one_scale else 0.07,
        vertical_spacing=0.3 / rows,
    )
    shown: set[str] = set()
    for index, panel in enumerate(chart.panels):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for line in panel.lines:
            figure.add_traces([_edge(line), _center(line, line.label not in shown)], **_repeated(place, 2))
            shown.add(line.label)
        _dress_axes(figure, panel, place, labelled=not chart.one_scale or place["col"] == 1)
    figure.update_annotations(font={"size": 14, "color": "#202124"})
    figure.update_layout(
        template="plotly_white",
        height=ROW_HEIGHT * rows + 110,
        margin={"l": 60, "r": 20, "t": 64, "b": 50},
        font={"family": FONT, "color": "#3c4043"},
        legend={"orientation": "h", "yanchor": "top", "y": -0.2 / rows, "x": 0},
        hovermode="x unified",
        hoverlabel={"namelength": -1},
    )
    described: dict[str, Any] = json.loads(figure.to_json())
    return {"data": described["data"], "layout": described["layout"]}


def _center(line: Line, in_legend: bool) -> Scatter:
    return Scatter(
        x=line.band.x,
        y=line.band.center,
        name=escape(line.label),
        legendgroup=escape(line.label),
        showlegend=in_legend,
        mode="lines",
        line={"color": line.color, "width": 2},
        hovertemplate="%{y:.4~g}",
    )


def _edge(line: Line) -> Scatter:
    """Return the band as one closed outline."""
    band = line.band
    # On a logarithmic axis an edge at or below zero would tear the outline.
    low = [max(low, 1e-3 * center) if center > 0 else low for low, center in zip(band.low, band.center, strict=True)]
    return Scatter(
        x=[*band.x, *reversed(band.x)],
        y=[*band.high, *reversed(low)],
        legendgroup=escape(line.label),
        showlegend=False,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=_translucent(line.color),
        hoverinfo="skip",
    )


def _dress_axes(figure: Figure, panel: Panel, place: dict[str, int], *, labelled: bool) -> None:
    figure.update_xaxes(title=escape(panel.x_label), **place)
    figure.update_yaxes(title=escape(panel.y_label) if labelled else None, **place)
    if panel.log_y:
        figure.update_yaxes(type="log", exponentformat="power", **place)
    if panel.y_range is not None:
        ends = [math.log10(end) for end in panel.y_range] if panel.log_y else list(panel.y_range)
        figure.update_yaxes(range=ends, **place)


def _repeated(place: dict[str, int], times: int) -> dict[str, list[int]]:
    return {f"{key}s": [value] * times for key, value in place.items()}


def _translucent(color: str) -> str:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"
