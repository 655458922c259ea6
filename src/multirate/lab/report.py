"""From an experiment's folder to its pictures and its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multirate.lab.charts import Chart, Curves, build_charts
from multirate.lab.page import render_page
from multirate.lab.pictures import draw_png
from multirate.lab.results import TrialResult
from multirate.lab.stats import Summary, summarise
from multirate.lab.storage import Storage, StorageError, write_whole


@dataclass(frozen=True)
class Report:
    """What a report consists of.

    Attributes:
        summaries: A line of the table for every task and optimizer.
        page: The HTML page.
        pictures: The PNG files.
    """

    summaries: Sequence[Summary]
    page: Path
    pictures: Sequence[Path]


def make_report(storage: Storage) -> Report:
    """Draw everything anew from what the folder holds.

    Raises:
        StorageError: If there is nothing to report, or something cannot be read or written.
    """
    results = storage.results()
    if not results:
        raise StorageError(f"{storage.rows_path} holds no finished trial: run `multirate compare` first")
    summaries = summarise(results, order=storage.plan().get("optimizers", []))
    charts = {
        task: build_charts(_runs(storage, results, summaries, task))
        for task in dict.fromkeys(summary.task for summary in summaries)
    }
    try:
        pictures = [_write_picture(storage, task, chart) for task in charts for chart in charts[task]]
        page = storage.folder / "report.html"
        write_whole(page, render_page(results, summaries, charts))
    except OSError as error:
        raise StorageError(f"cannot write to {storage.folder}: {error.strerror}") from error
    return Report(summaries, page, pictures)


def _runs(
    storage: Storage, results: Sequence[TrialResult], summaries: Sequence[Summary], task: str
) -> dict[str, list[Curves]]:
    return {
        summary.optimizer: [
            storage.curves(result.trial)
            for result in results
            if (result.task, result.optimizer) == (task, summary.optimizer)
        ]
        for summary in summaries
        if summary.task == task
    }


def _write_picture(storage: Storage, task: str, chart: Chart) -> Path:
    path = storage.folder / f"{task.replace('/', '-')}-{chart.key}.png"
    write_whole(path, draw_png(chart, task))
    return path
