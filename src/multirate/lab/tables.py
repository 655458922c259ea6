"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multirate.lab.judging.comparisons import Comparison, p_text
from multirate.lab.reporting.claims import HEADINGS, ClaimRow
from multirate.lab.reporting.paper import PaperRow
from multirate.lab.reporting.summaries import Summary, text_of_reached
from multirate.lab.reporting.yardstick_tables import method_rows
from multirate.lab.yardstick.scores import Yardstick


def open_console() -> Console:
    """Return a console for standard output; a file or pipe gets lines wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def summary_tables(summaries: Sequence[Summary]) -> Iterable[Table]:
    """Yield a table for every task."""
    for task in dict.fromkeys(summary.task for summary in summaries):
        own = [summary for summary in summaries if summary.task == task]
        table = Table(
            title=escape(task),
            title_justify="left",
            caption=f"mean ± standard error; p: Welch's t-test against {escape(own[0].optimizer)}, corrected by Holm",
            caption_justify="left",
        )
        accuracies = any(summary.test_accuracy.count for summary in own)
        targets = any(summary.steps_to_target for summary in own)
        table.add_column("optimizer", no_wrap=True)
        for heading in _headings(accuracies, targets):
            table.add_column(heading, justify="right", no_wrap=True)
        for summary in own:
            table.add_row(*_cells(summary, accuracies, targets))
        yield table


def paper_tables(rows: Sequence[PaperRow]) -> Iterable[Table]:
    """Yield the table of a paper's figures beside ours, when there are any."""
    if not rows:
        return
    table = Table(
        title="The paper's test accuracy and ours, %",
        title_justify="left",
        caption="mean (standard error); p: Welch's t-test, corrected by Holm; ▲ ours above, ▼ below, ≈ no difference",
        caption_justify="left",
    )
    for heading in ("task", "optimizer"):
        table.add_column(heading, no_wrap=True)
    for heading in ("paper", "ours", "n", "difference", "p", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        difference = "–" if row.comparison.difference is None else f"{row.comparison.difference:+.2f}"
        table.add_row(
            escape(row.task), escape(row.optimizer), row.paper_text, row.our_text, str(row.ours.count), difference,
            p_text(row.p_corrected), row.mark,
        )  # fmt: skip
    yield table


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


def _headings(accuracies: bool, targets: bool) -> list[str]:
    accuracy = ["accuracy %", "p"] if accuracies else []
    steps = ["to target"] if targets else []
    return ["test loss", "p", *accuracy, "n", "diverged", *steps, "seconds"]


def _cells(summary: Summary, accuracies: bool, targets: bool) -> list[str]:
    accuracy = [summary.test_accuracy.text(2, scale=100), _p_text(summary.accuracy_comparison)] if accuracies else []
    steps = [text_of_reached(summary.steps_to_target, 0)] if targets else []
    return [
        escape(summary.optimizer), summary.test_loss.text(4), _p_text(summary.loss_comparison), *accuracy,
        str(summary.test_loss.count), str(summary.diverged or "–"), *steps, summary.seconds.text(2),
    ]  # fmt: skip


def _p_text(comparison: Comparison | None) -> str:
    return p_text(None if comparison is None else comparison.p_corrected)


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
    for row in claims:
        table.add_row(*(escape(cell) for cell in row.cells()))
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
