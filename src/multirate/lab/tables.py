"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from multirate.lab.bench import Timing, rows
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.stats import Summary, p_text
from multirate.lab.tasks import TASKS


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
            caption=f"mean ± standard error; p: Welch's t-test against {escape(own[0].optimizer)}",
            caption_justify="left",
        )
        table.add_column("optimizer", no_wrap=True)
        for heading in ("test loss", "p", "accuracy %", "p", "n", "diverged", "seconds"):
            table.add_column(heading, justify="right", no_wrap=True)
        for summary in own:
            table.add_row(
                escape(summary.optimizer),
                summary.test_loss.text(4),
                p_text(summary.loss_p),
                summary.test_accuracy.text(2, scale=100),
                p_text(summary.accuracy_p),
                str(summary.test_loss.count),
                str(summary.diverged or "–"),
                summary.seconds.text(2),
            )
        yield table


def timing_table(timings: Sequence[Timing]) -> Table:
    """Return the table of step times."""
    lines = rows(timings)
    table = Table(
        title="Time of one step",
        title_justify="left",
        caption="ratio: to the faster of torch Adam's loop and foreach paths",
        caption_justify="left",
    )
    for heading in lines[0]:
        table.add_column(heading, justify="left" if heading == "optimizer" else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(escape(cell) for cell in line.values()))
    return table


def registry_tables() -> Iterable[Table]:
    """Yield the tables of what an experiment can name."""
    tasks = Table(title="Tasks", title_justify="left")
    for heading in ("name", "description", "epochs", "batch"):
        tasks.add_column(heading)
    for task in TASKS.values():
        tasks.add_row(task.name, task.description, str(task.epochs), str(task.batch_size))
    yield tasks

    optimizers = Table(title="Optimizers", title_justify="left")
    for heading in ("name", "description", "citation", "installed"):
        optimizers.add_column(heading, no_wrap=heading == "name")
    for entry in OPTIMIZERS.values():
        cure = f"pip install 'multirate[{entry.extra}]'"
        optimizers.add_row(entry.name, entry.description, entry.citation, "yes" if entry.installed else escape(cure))
    yield optimizers
