"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multirate.lab.reporting.claim_rows import HEADINGS, ClaimRow, claim_lines
from multirate.lab.reporting.columns import ResultTable
from multirate.lab.reporting.yardstick_tables import method_rows
from multirate.lab.yardstick.scores import Yardstick


def open_console() -> Console:
    """Return a console for standard output; a file or pipe gets lines wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def result_table(table: ResultTable, subject: str) -> Table:
    """Return a table of results, without the columns that need more room.

    Args:
        table: What to show.
        subject: What it is about, for the title.
    """
    drawn = Table(
        title=escape(f"{table.title} – {subject}"),
        title_justify="left",
        caption=escape(table.explanation),
        caption_justify="left",
    )
    for heading in table.headings:
        if not heading.detail:
            # Where there is little room, names are broken before any digit is lost.
            drawn.add_column(
                _broken(heading.text), justify="left" if heading.name else "right", no_wrap=not heading.name,
                overflow="fold",
            )  # fmt: skip
    for cells in table.rows:
        drawn.add_row(
            *(escape(cell.text) for cell, heading in zip(cells, table.headings, strict=True) if not heading.detail)
        )
    return drawn


def _broken(heading: str) -> str:
    """Put a long heading on two lines, so that its column is no wider than its numbers."""
    first, _, last = heading.rpartition(" ")
    return f"{first}\n{last}" if " " in first else heading


def yardstick_tables(yardstick: Yardstick) -> Iterable[Table]:
    """Yield the table of scores, when there are any."""
    rows = method_rows(yardstick)
    if not rows:
        return
    headings = ("method", "score", "worst", "where", "at 0.1", "reaches tuned", "time", "diverged")
    table = Table(
        title="Scores",
        title_justify="left",
        caption="test loss / best tuned, geometric mean over tasks and starting rates up to 0.01; below 1 is better",
        caption_justify="left",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("method", "where") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(row[heading]) for heading in headings))
    yield table


def claims_table(claims: Sequence[ClaimRow]) -> Table:
    """Return the table of claims."""
    table = Table(
        title="Claims",
        title_justify="left",
        caption="p: of tests on our figures, corrected by Holm within a study",
        caption_justify="left",
    )
    for heading in HEADINGS:
        table.add_column(heading)
    for line in claim_lines(claims):
        table.add_row(*map(escape, line))
    return table


def text_table(title: str, rows: Sequence[Mapping[str, str]], text_columns: int = 1) -> Table:
    """Return rows as a table.

    Args:
        title: What stands above.
        rows: Cells by heading; the headings are those of the first row.
        text_columns: How many columns, from the left, hold text; the others are numbers, set to the right.
    """
    table = Table(title=escape(title), title_justify="left")
    for index, heading in enumerate(rows[0]):
        table.add_column(heading, justify="left" if index < text_columns else "right", no_wrap=index >= text_columns)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row.values()))
    return table
