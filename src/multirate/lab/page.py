"""The report as one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from multirate.lab.charts import Chart
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.plots import plot
from multirate.lab.results import TrialResult
from multirate.lab.stats import Estimate, Summary, p_text
from multirate.lab.tasks import TASKS


def render_page(
    results: Sequence[TrialResult], summaries: Sequence[Summary], charts: Mapping[str, Sequence[Chart]]
) -> str:
    """Return the page.

    Args:
        results: All finished trials.
        summaries: Of these trials; the first of every task is its baseline.
        charts: The charts of every task.
    """
    figures: dict[str, dict[str, Any]] = {}
    parts = []
    for task, its_charts in charts.items():
        own = [summary for summary in summaries if summary.task == task]
        parts.append(f"<h2>{escape(task)}</h2>{_task_line(task)}{_summary_table(own)}")
        for chart in its_charts:
            identifier = f"chart{len(figures)}"
            figures[identifier] = plot(chart)
            parts.append(
                f'<section class="card"><h3>{escape(chart.title)}</h3>'
                f'<p class="soft">{escape(chart.caption)}</p>'
                f'<div class="chart" id="{identifier}"></div></section>'
            )
    parts += [_optimizers_table(results, summaries), _origin(results)]
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title="Optimizers compared",
        subtitle=escape(f"multirate · {_counted(len(results), 'trial')} · {', '.join(charts)}"),
        body="\n".join(parts),
        plotly=get_plotlyjs(),
        # "<" could end the script element early; JSON has another way to write it.
        charts=json.dumps(figures, allow_nan=False).replace("<", "\\u003c"),
    )


def _task_line(task: str) -> str:
    return f'<p class="soft">{escape(TASKS[task].description)}</p>' if task in TASKS else ""


def _summary_table(summaries: Sequence[Summary]) -> str:
    baseline = summaries[0].optimizer
    lowest = _best([summary.test_loss for summary in summaries], min)
    highest = _best([summary.test_accuracy for summary in summaries], max)
    rows = [
        _row(
            _cell(summary.optimizer, "name"),
            _cell(summary.test_loss.text(4), _marked(summary.test_loss.mean == lowest)),
            _cell(p_text(summary.loss_p), "number"),
            _cell(summary.test_accuracy.text(2, scale=100), _marked(summary.test_accuracy.mean == highest)),
            _cell(p_text(summary.accuracy_p), "number"),
            _cell(str(summary.test_loss.count), "number"),
            _cell(str(summary.diverged or "–"), "number"),
            _cell(summary.seconds.text(2), "number"),
        )
        for summary in summaries
    ]
    heads = ["test loss", "p", "test accuracy, %", "p", "n", "diverged", "seconds"]
    return (
        '<section class="card"><h3>Results</h3>'
        '<p class="soft">Mean ± standard error over the n seeds that did not diverge; bold: the best mean. '
        f"p: Welch's t-test, two-sided, against {escape(baseline)}.</p>"
        f'<div class="scroll"><table><thead><tr><th>optimizer</th>{_heads(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _optimizers_table(results: Sequence[TrialResult], summaries: Sequence[Summary]) -> str:
    settings = {(result.task, result.optimizer): _settings_text(result.settings) for result in results}
    rows = []
    for summary in summaries:
        entry = OPTIMIZERS.get(summary.optimizer)
        about = f"{entry.description} ({entry.citation})" if entry else ""
        built_with = settings[summary.task, summary.optimizer]
        rows.append(
            _row(
                _cell(summary.optimizer, "name"),
                _cell(summary.task, "name"),
                f"<td>{escape(about)}<br><code>{escape(built_with)}</code></td>",
            )
        )
    return (
        '<section class="card"><h3>Optimizers and their settings</h3><div class="scroll"><table><thead><tr>'
        "<th>optimizer</th><th>task</th><th>what it is, and what it was built with</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _origin(results: Sequence[TrialResult]) -> str:
    facts = {
        "command": _unique(result.command for result in results),
        "versions": _unique(
            ", ".join(f"{name} {version}" for name, version in result.versions.items()) for result in results
        ),
        "revision": _unique(result.revision or "not known" for result in results),
        "hardware": _unique(result.hardware for result in results),
    }
    items = "".join(
        f"<dt>{name}</dt><dd>{'<br>'.join(f'<code>{escape(str(value))}</code>' for value in values)}</dd>"
        for name, values in facts.items()
    )
    return f'<section class="card"><h3>How this was made</h3><dl>{items}</dl></section>'


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items()) or "no settings"


def _best(estimates: Iterable[Estimate], choose: Any) -> float | None:
    means = [estimate.mean for estimate in estimates if estimate.mean is not None]
    return choose(means) if len(means) > 1 else None


def _marked(best: bool) -> str:
    return "number best" if best else "number"


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _heads(names: Iterable[str]) -> str:
    return "".join(f'<th class="number">{escape(name)}</th>' for name in names)


def _row(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _cell(text: str, kind: str) -> str:
    return f'<td class="{kind}">{escape(text)}</td>'


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
