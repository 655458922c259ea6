"""The tables of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.reporting.columns import Cell, Heading, ResultTable
from multirate.lab.reporting.summaries import Summary
from multirate.lab.results import TrialResult
from multirate.lab.variants import Variant

MARKS: Mapping[str, str] = {"▲": "mark above", "▼": "mark below", "≈": "mark"}
"""How cells with a mark look, by the mark."""


def table_card(table: ResultTable) -> str:
    """Return a table of results."""
    rows = [
        _row(*(_td(cell, heading) for cell, heading in zip(cells, table.headings, strict=True))) for cells in table.rows
    ]
    return _card(table.title, table.explanation, table.headings, rows)


def optimizers_table(results: Sequence[TrialResult], summaries: Sequence[Summary]) -> str:
    """Return what every optimizer is and what it was built with."""
    settings = {(result.task, result.optimizer): _settings_text(result.settings) for result in results}
    texts = ("optimizer", "task", "what it is, and what it was built with")
    headings = [Heading(text, name=True) for text in texts]
    rows = []
    for summary in summaries:
        entry = OPTIMIZERS.get(Variant.parse(summary.optimizer).optimizer)
        about = f"{entry.description} ({entry.citation})" if entry else ""
        built_with = settings[summary.task, summary.optimizer]
        rows.append(
            _row(
                *(_td(Cell(name), headings[0]) for name in (summary.optimizer, summary.task)),
                f"<td>{escape(about)}<br><code>{escape(built_with)}</code></td>",
            )
        )
    return _card("Optimizers and their settings", "", headings, rows)


def origin(results: Sequence[TrialResult]) -> str:
    """Return with what and on what the results were made."""
    facts = {
        "command": _unique(result.command for result in results),
        "versions": _unique(
            ", ".join(f"{name} {version}" for name, version in result.versions.items()) for result in results
        ),
        "revision": _unique(result.revision or "not known" for result in results),
        "hardware": _unique(result.hardware for result in results),
        "device": _unique(_settings_text(result.machine) for result in results if result.machine),
    }
    items = "".join(
        f"<dt>{name}</dt><dd>{'<br>'.join(f'<code>{escape(str(value))}</code>' for value in values)}</dd>"
        for name, values in facts.items()
        if values
    )
    return f'<section class="card"><h3>How this was made</h3><dl>{items}</dl></section>'


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items()) or "no settings"


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _card(title: str, explanation: str, headings: Sequence[Heading], rows: Sequence[str]) -> str:
    soft = f'<p class="soft">{escape(explanation)}</p>' if explanation else ""
    heads = "".join(
        f"<th>{escape(heading.text)}</th>" if heading.name else f'<th class="number">{escape(heading.text)}</th>'
        for heading in headings
    )
    return (
        f'<section class="card"><h3>{escape(title)}</h3>{soft}<div class="scroll" tabindex="0"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _row(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _td(cell: Cell, heading: Heading) -> str:
    kind = MARKS.get(cell.text, "name" if heading.name else "number best" if cell.best else "number")
    small = f"<br><small>{escape(cell.below)}</small>" if cell.below else ""
    return f'<td class="{kind}">{escape(cell.text)}{small}</td>'
