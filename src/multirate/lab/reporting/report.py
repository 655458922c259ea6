"""From an experiment's folder to its pictures and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multirate.lab.reporting.charts import Chart, Look, assign_looks
from multirate.lab.reporting.curve_charts import curve_charts
from multirate.lab.reporting.families import Family, find_families, methods
from multirate.lab.reporting.markdown_tables import render_tables
from multirate.lab.reporting.page import render_page
from multirate.lab.reporting.paper import PaperRow, compare_with_paper
from multirate.lab.reporting.pictures import draw_png
from multirate.lab.reporting.result_charts import profile_chart, robustness_chart
from multirate.lab.reporting.summaries import Curves, Summary, summarise
from multirate.lab.reporting.unfinished import KEY as UNFINISHED
from multirate.lab.reporting.unfinished import render_unfinished, unfinished_charts
from multirate.lab.reporting.yardstick_charts import start_rates_charts, yardstick_charts
from multirate.lab.reporting.yardstick_tables import render_yardstick
from multirate.lab.results import Trial, TrialResult
from multirate.lab.storage import Storage, StorageError, write_whole
from multirate.lab.yardstick.scores import Yardstick, score
from multirate.lab.yardstick.stages import NAME as YARDSTICK_NAME


@dataclass(frozen=True)
class Report:
    """What a report consists of.

    Attributes:
        summaries: A line of the table for every task and optimizer.
        paper: A paper's figures beside ours; none when the experiment is no study with published figures.
        page: The HTML page.
        texts: The same tables in Markdown; those of the yardstick are last.
        pictures: The PNG files.
        yardstick: The scores, where the experiment is the yardstick.
    """

    summaries: Sequence[Summary]
    paper: Sequence[PaperRow]
    page: Path
    texts: Sequence[Path]
    pictures: Sequence[Path]
    yardstick: Yardstick | None = None


@dataclass(frozen=True)
class TaskView:
    """What is shown of one task.

    Attributes:
        results: Its finished trials.
        families: Its optimizers that were run with several learning rates.
        shown: The variants in its charts, by the name of the method.
    """

    results: Sequence[TrialResult]
    families: Sequence[Family]
    shown: Mapping[str, str]

    def trials(self, method: str) -> list[TrialResult]:
        """Return the trials of a method over seeds."""
        return [result for result in self.results if result.optimizer == self.shown[method]]


def make_report(storage: Storage) -> Report:
    """Draw everything anew from what the folder holds.

    A folder of which only the rows were kept, without any curves, gets the tables and the charts that need no curves.

    Raises:
        StorageError: If there is nothing to report, or something cannot be read or written.
    """
    results, left = storage.results(), storage.unfinished()
    if not results and not left:
        raise StorageError(f"{storage.rows_path} holds no finished trial: run `multirate compare` first")
    plan = storage.plan()
    curves = _curves(storage, results)
    summaries = summarise(results, plan.get("optimizers", []), curves)
    paper = compare_with_paper(results, plan.get("study"))
    views = _views(results, summaries)
    looks = assign_looks(method for view in views.values() for method in view.shown)
    charts = {task: _task_charts(view, curves, looks) for task, view in views.items()}
    profile = profile_chart(
        {task: {name: [trial.test_loss for trial in view.trials(name)] for name in view.shown}
         for task, view in views.items()},
        looks,
    )  # fmt: skip
    overall = [] if profile is None else [profile]
    yardstick = score(results, curves) if plan.get("study") == YARDSTICK_NAME else None
    if yardstick is not None:
        overall = [*yardstick_charts(yardstick), *overall]
        for task, own in start_rates_charts(yardstick, curves).items():
            charts[task] += own
    under_way = list(unfinished_charts(left))
    try:
        for stale in storage.folder.glob(f"{UNFINISHED}*.*"):
            stale.unlink()
        pictures = [_write_picture(storage, chart, "all tasks", chart.key) for chart in overall]
        pictures += [_write_picture(storage, chart, "no results", chart.key) for chart in under_way]
        pictures += [
            _write_picture(storage, chart, task, f"{task.replace('/', '-')}-{chart.key}")
            for task in charts
            for chart in charts[task]
        ]
        page = storage.folder / "report.html"
        write_whole(page, render_page(results, summaries, paper, charts, [*overall, *under_way]))
        texts = [storage.folder / "tables.md"]
        write_whole(texts[0], render_tables(results, summaries, paper))
        if left:
            texts.append(storage.folder / f"{UNFINISHED}.md")
            write_whole(texts[-1], render_unfinished(left))
        if yardstick is not None:
            texts.append(storage.folder / "yardstick.md")
            write_whole(texts[-1], render_yardstick(yardstick, results))
    except OSError as error:
        raise StorageError(f"cannot write to {storage.folder}: {error.strerror}") from error
    return Report(summaries, paper, page, texts, pictures, yardstick)


def _curves(storage: Storage, results: Sequence[TrialResult]) -> dict[Trial, Curves]:
    if not (storage.folder / "trials").is_dir():
        return {}
    return {result.trial: storage.curves(result.trial) for result in results}


def _views(results: Sequence[TrialResult], summaries: Sequence[Summary]) -> dict[str, TaskView]:
    views = {}
    for task in dict.fromkeys(summary.task for summary in summaries):
        own = [result for result in results if result.task == task]
        families = find_families(own)
        optimizers = [summary.optimizer for summary in summaries if summary.task == task]
        views[task] = TaskView(own, families, methods(optimizers, families))
    return views


def _task_charts(view: TaskView, curves: Mapping[Trial, Curves], looks: Mapping[str, Look]) -> list[Chart]:
    # The panels of a method are titled by its variant, so that the learning rate can be read there.
    runs = {
        variant: [curves[result.trial] for result in view.trials(method) if result.trial in curves]
        for method, variant in view.shown.items()
    }
    variant_looks = {variant: looks[method] for method, variant in view.shown.items()}
    robustness = robustness_chart(view.families, looks)
    charts = curve_charts(runs, variant_looks)
    return [*charts[:1], robustness, *charts[1:]] if robustness.panels else charts


def _write_picture(storage: Storage, chart: Chart, subject: str, stem: str) -> Path:
    path = storage.folder / f"{stem}.png"
    write_whole(path, draw_png(chart, subject))
    return path
