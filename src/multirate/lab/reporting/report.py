"""From an experiment's folder to its pictures and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multirate.lab.reporting.charts import Chart, Look, assign_looks
from multirate.lab.reporting.columns import ResultTable
from multirate.lab.reporting.curve_charts import curve_charts
from multirate.lab.reporting.families import Family, find_families, find_sweeps, methods, stands_for
from multirate.lab.reporting.markdown_tables import render_tables
from multirate.lab.reporting.page import render_page
from multirate.lab.reporting.paper import compare_with_paper
from multirate.lab.reporting.pictures import draw_png
from multirate.lab.reporting.result_charts import loss_profiles, profile_chart, robustness_chart, sweep_charts
from multirate.lab.reporting.result_tables import paper_table, profile_table, task_tables
from multirate.lab.reporting.summaries import Curves, Summary, summarise
from multirate.lab.reporting.unfinished import KEY as UNFINISHED
from multirate.lab.reporting.unfinished import render_unfinished, unfinished_charts
from multirate.lab.reporting.yardstick_charts import layers_chart, start_rates_charts, yardstick_charts
from multirate.lab.reporting.yardstick_tables import render_yardstick
from multirate.lab.results import Trial, TrialResult
from multirate.lab.storage import Storage, StorageError, write_whole
from multirate.lab.studies.table import STUDIES
from multirate.lab.yardstick.scores import Yardstick, score
from multirate.lab.yardstick.stages import NAME as YARDSTICK_NAME


@dataclass(frozen=True)
class Report:
    """What a report consists of.

    Attributes:
        tables: The tables of every task.
        overall: The tables over all tasks; a paper's figures beside ours are first.
        page: The HTML page.
        texts: The same tables in Markdown; those of the yardstick are last.
        pictures: The PNG files.
        yardstick: The scores, where the experiment is the yardstick.
    """

    tables: Mapping[str, Sequence[ResultTable]]
    overall: Sequence[ResultTable]
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
        summaries: A line of its table for every optimizer.
    """

    results: Sequence[TrialResult]
    families: Sequence[Family]
    shown: Mapping[str, str]
    summaries: Sequence[Summary]

    def trials(self, method: str) -> list[TrialResult]:
        """Return the trials of a method over seeds."""
        return [result for result in self.results if result.optimizer == self.shown[method]]


def make_report(storage: Storage, baselines: Sequence[str] = ()) -> Report:
    """Draw everything anew from what the folder holds.

    A folder of which only the rows were kept, without any curves, gets the tables and the charts that need no curves.

    Args:
        storage: The folder.
        baselines: What to compare with, as for `summarise`; without any, those that the experiment was made with, or
            its study's.

    Raises:
        StorageError: If there is nothing to report, a baseline is not there, or something cannot be read or written.
    """
    results, left = storage.results(), storage.unfinished()
    if not results and not left:
        raise StorageError(f"{storage.rows_path} holds no finished trial: run `multirate compare` first")
    plan = storage.plan()
    curves = _curves(storage, results)
    _require(baselines, results, storage)
    chosen = baselines or plan.get("baselines") or _study_baselines(plan.get("study"))
    summaries = summarise(results, plan.get("optimizers", []), curves, chosen)
    paper = compare_with_paper(results, plan.get("study"))
    views = _views(results, summaries)
    looks = assign_looks(method for view in views.values() for method in view.shown)
    tables = {task: task_tables(view.summaries, view.families) for task, view in views.items()}
    charts = {task: _task_charts(view, curves, looks) for task, view in views.items()}
    profiles = loss_profiles(
        {task: {name: [trial.test_loss for trial in view.trials(name)] for name in view.shown}
         for task, view in views.items()}
    )  # fmt: skip
    overall_tables = [paper_table(paper)] if paper else []
    overall_charts = []
    if profiles:
        overall_tables.append(profile_table(profiles))
        overall_charts.append(profile_chart(profiles, looks))
    yardstick = score(results, curves) if plan.get("study") == YARDSTICK_NAME else None
    if yardstick is not None:
        layers = layers_chart(yardstick, curves)
        overall_charts = [*yardstick_charts(yardstick), *([layers] if layers.panels else []), *overall_charts]
        for task, own in start_rates_charts(yardstick, curves).items():
            charts[task] += own
    under_way = list(unfinished_charts(left))
    try:
        for stale in storage.folder.glob(f"{UNFINISHED}*.*"):
            stale.unlink()
        pictures = [_write_picture(storage, chart, "all tasks", chart.key) for chart in overall_charts]
        pictures += [_write_picture(storage, chart, "no results", chart.key) for chart in under_way]
        pictures += [
            _write_picture(storage, chart, task, f"{task.replace('/', '-')}-{chart.key}")
            for task in charts
            for chart in charts[task]
        ]
        page = storage.folder / "report.html"
        charts_of_all = [*overall_charts, *under_way]
        write_whole(page, render_page(results, summaries, tables, charts, overall_tables, charts_of_all))
        texts = [storage.folder / "tables.md"]
        write_whole(texts[0], render_tables(results, tables, overall_tables))
        if left:
            texts.append(storage.folder / f"{UNFINISHED}.md")
            write_whole(texts[-1], render_unfinished(left))
        if yardstick is not None:
            texts.append(storage.folder / "yardstick.md")
            write_whole(texts[-1], render_yardstick(yardstick, results))
    except OSError as error:
        raise StorageError(f"cannot write to {storage.folder}: {error.strerror}") from error
    return Report(tables, overall_tables, page, texts, pictures, yardstick)


def _require(baselines: Sequence[str], results: Sequence[TrialResult], storage: Storage) -> None:
    if unknown := [name for name in baselines if stands_for(name, results) is None]:
        variants = dict.fromkeys(result.optimizer for result in results)
        raise StorageError(
            f"no trial in {storage.folder} is of the baseline {unknown[0]!r}: choose from {', '.join(variants)}"
        )


def _study_baselines(study: object) -> Sequence[str]:
    return STUDIES[study].baselines if isinstance(study, str) and study in STUDIES else ()


def _curves(storage: Storage, results: Sequence[TrialResult]) -> dict[Trial, Curves]:
    if not (storage.folder / "trials").is_dir():
        return {}
    return {result.trial: storage.curves(result.trial) for result in results}


def _views(results: Sequence[TrialResult], summaries: Sequence[Summary]) -> dict[str, TaskView]:
    views = {}
    for task in dict.fromkeys(summary.task for summary in summaries):
        own = [result for result in results if result.task == task]
        families = find_families(own)
        lines = [summary for summary in summaries if summary.task == task]
        views[task] = TaskView(own, families, methods([line.optimizer for line in lines], families), lines)
    return views


def _task_charts(view: TaskView, curves: Mapping[Trial, Curves], looks: Mapping[str, Look]) -> list[Chart]:
    # The panels of a method are titled by its variant, so that the learning rate can be read there.
    runs = {
        variant: [curves[result.trial] for result in view.trials(method) if result.trial in curves]
        for method, variant in view.shown.items()
    }
    variant_looks = {variant: looks[method] for method, variant in view.shown.items()}
    ends = [robustness_chart(view.families, looks)] if view.families else []
    ends += sweep_charts(find_sweeps(view.results), view.results, view.summaries[0].baselines)
    charts = curve_charts(runs, variant_looks)
    return [*charts[:1], *ends, *charts[1:]]


def _write_picture(storage: Storage, chart: Chart, subject: str, stem: str) -> Path:
    path = storage.folder / f"{stem}.png"
    write_whole(path, draw_png(chart, subject))
    return path
