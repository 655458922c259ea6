"""The tables of a report as Markdown: what is kept beside raw results, small and readable as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from multirate.lab.markdown import markdown_table
from multirate.lab.reporting.columns import ResultTable
from multirate.lab.results import TrialResult


def render_tables(
    results: Sequence[TrialResult], by_task: Mapping[str, Sequence[ResultTable]], overall: Sequence[ResultTable]
) -> str:
    """Return the commands, the hardware and all tables.

    Args:
        results: All finished trials.
        by_task: The tables of every task; the first are its results.
        overall: The tables over all tasks.
    """
    parts = ["# Results\n", *(f"    {command}\n" for command in dict.fromkeys(result.command for result in results))]
    parts += [f"{hardware}\n" for hardware in dict.fromkeys(result.hardware for result in results)]
    for task, (first, *others) in by_task.items():
        parts += [f"## {task}\n", *_table(first)]
        for table in others:
            parts += [f"### {table.title}\n", *_table(table)]
    for table in overall:
        parts += [f"## {table.title}\n", *_table(table)]
    return "\n".join(parts)


def _table(table: ResultTable) -> Iterator[str]:
    yield f"{table.explanation}\n"
    names = [heading.name for heading in table.headings]
    rows = [
        {
            heading.text: f"`{cell.text}`" if heading.name else f"{cell.text} {cell.below}".strip()
            for heading, cell in zip(table.headings, cells, strict=True)
        }
        for cells in table.rows
    ]
    yield markdown_table(rows, names.count(True))
