"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from multirate.lab.reporting.charts import Chart
from multirate.lab.reporting.columns import ResultTable
from multirate.lab.reporting.plots import plot
from multirate.lab.reporting.sections import optimizers_table, origin, table_card
from multirate.lab.reporting.summaries import Summary
from multirate.lab.results import TrialResult
from multirate.lab.tasks import TASKS


def render_page(
    results: Sequence[TrialResult],
    summaries: Sequence[Summary],
    tables: Mapping[str, Sequence[ResultTable]],
    charts: Mapping[str, Sequence[Chart]],
    overall_tables: Sequence[ResultTable],
    overall_charts: Sequence[Chart],
) -> str:
    """Return the page.

    Args:
        results: All finished trials.
        summaries: Of these trials.
        tables: The tables of every task.
        charts: The charts of every task.
        overall_tables: The tables over all tasks.
        overall_charts: The charts over all tasks.
    """
    figures: dict[str, dict[str, Any]] = {}
    parts = [table_card(table) for table in overall_tables]
    parts += [_chart_section(chart, figures) for chart in overall_charts]
    for task, its_charts in charts.items():
        parts.append(f"<h2>{escape(task)}</h2>{_task_line(task)}")
        parts += [table_card(table) for table in tables[task]]
        parts += [_chart_section(chart, figures) for chart in its_charts]
    parts += [optimizers_table(results, summaries), origin(results)]
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title="Optimizers compared",
        subtitle=escape(f"multirate · {_counted(len(results), 'trial')} · {', '.join(charts)}"),
        body="\n".join(parts),
        plotly=get_plotlyjs(),
        # "<" could end the script element early; JSON has another way to write it.
        charts=json.dumps(figures, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _chart_section(chart: Chart, figures: dict[str, dict[str, Any]]) -> str:
    identifier = f"chart{len(figures)}"
    figures[identifier] = plot(chart)
    return (
        f'<section class="card"><h3>{escape(chart.title)}</h3>'
        f'<p class="soft">{escape(chart.caption)}</p>'
        f'<div class="chart" id="{identifier}"></div></section>'
    )


def _task_line(task: str) -> str:
    return f'<p class="soft">{escape(TASKS[task].description)}</p>' if task in TASKS else ""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
