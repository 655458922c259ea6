"""The tables of the yardstick as Markdown, and the lines of its main one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from multirate.lab.judging.comparisons import p_text
from multirate.lab.judging.scores import CAP
from multirate.lab.judging.targets import Reached
from multirate.lab.markdown import markdown_table
from multirate.lab.reporting.yardstick_charts import short_name
from multirate.lab.results import TrialResult
from multirate.lab.yardstick.families import HIGHEST_SCORED_RATE, OURS, START_RATES
from multirate.lab.yardstick.scores import Cell, MethodScore, Yardstick
from multirate.lab.yardstick.tasks import YARDSTICK, ZERO_FLOOR


def render_yardstick(yardstick: Yardstick, results: Sequence[TrialResult]) -> str:
    """Return the page: how it was made, the rule, and all tables."""
    parts = ["# Yardstick\n", *(f"    {command}\n" for command in _unique(results, lambda result: result.command))]
    parts += [f"{hardware}\n" for hardware in _unique(results, lambda result: result.hardware)]
    parts += [_rule(), *_gaps(yardstick)]
    if yardstick.methods:
        parts += ["## Methods\n", markdown_table(method_rows(yardstick), 1)]
        parts += ["## Tasks\n", markdown_table(list(_task_rows(yardstick)), 1)]
        parts += ["## What was reached by tuning\n", markdown_table(list(_target_rows(yardstick)), 2)]
        parts += _start_tables(yardstick)
    if yardstick.levels:
        parts += [_levels_text(), markdown_table(list(_level_rows(yardstick)), 2)]
    return "\n".join(parts)


def method_rows(yardstick: Yardstick) -> list[dict[str, str]]:
    """Return a line for every method, cells by heading."""
    return [
        {
            "method": method.method,
            "score": f"{method.score:.3f}",
            "worst": f"{method.worst.score:.3f}",
            "where": _place(method.worst),
            "at 0.1": _text(method.high),
            "worst at 0.1": "–" if method.high_worst is None else f"{method.high_worst.score:.3f}",
            "reaches tuned": _share_text(method.reached),
            "after": _text(method.reached.median, 2),
            "time": _text(method.time, 2),
            "diverged": f"{method.diverged}/{method.runs}" if method.diverged else "–",
            "tasks": str(len(method.by_task)),
        }
        for method in yardstick.methods
    ]


def _rule() -> str:
    return (
        "Score: final test loss over that of the best tuned method of the task (Adam, AdamW and SGD with Nesterov "
        "momentum with rate and schedule, Schedule-Free with rate; its mean over seeds), mean over seeds; below 1 is "
        f"better than tuned. Ratios lie within 1/{CAP:g} and {CAP:g}; a run that diverged has {CAP:g}. Where the least "
        f"loss is zero, {ZERO_FLOOR:g} is added to both losses.\n\n"
        "Methods: geometric mean over tasks, for ours also over starting rates from "
        f"{START_RATES[0]:g} to {HIGHEST_SCORED_RATE:g}; higher ones stand apart. Reaches tuned: share of runs whose "
        "test loss, interpolated between evaluations, gets to the tuned final loss, and after which part of its steps "
        "in the median. Time: in training steps, over the tuned run's.\n"
    )


def _gaps(yardstick: Yardstick) -> Iterator[str]:
    if yardstick.unmeasured:
        yield (
            f"Without a finished tuned run, so without scores: {', '.join(yardstick.unmeasured)}. "
            "Run their tuned families into the same folder.\n"
        )
    for task, families in yardstick.missing.items():
        yield f"{task} has no run of {', '.join(families)}: its scores are measured by fewer tuned methods.\n"


def _task_rows(yardstick: Yardstick) -> Iterator[dict[str, str]]:
    for method in yardstick.methods:
        scores = {short_name(task): _text(method.by_task.get(task)) for task in yardstick.tasks}
        yield {"method": method.method, **scores}


def _target_rows(yardstick: Yardstick) -> Iterator[dict[str, str]]:
    for task, target in yardstick.targets.items():
        yield {
            "task": task,
            "best tuned": f"`{target.optimizer}`",
            "test loss": target.loss.text(4),
            "n": str(target.loss.count),
            "rate at the edge": "yes" if target.at_edge else "no",
            "floor": f"{YARDSTICK[task].floor:g}",
            "seconds": f"{target.seconds:.1f}",
        }


def _start_tables(yardstick: Yardstick) -> Iterator[str]:
    for method in yardstick.methods:
        if method.kind == OURS:
            yield f"## {method.method} from every starting rate\n"
            yield markdown_table(list(_start_rows(yardstick, method)), 1)


def _start_rows(yardstick: Yardstick, method: MethodScore) -> Iterator[dict[str, str]]:
    cells = {(cell.task, cell.lr): cell for cell in yardstick.cells if cell.method == method.method}
    for task in yardstick.tasks:
        found = [cells.get((task, lr)) for lr in START_RATES]
        yield {
            "task": short_name(task),
            **{f"{lr:g}": _cell_text(cell) for lr, cell in zip(START_RATES, found, strict=True)},
        }


def _levels_text() -> str:
    return (
        "## Levels\n\n"
        "Every two sets of levels on the same tasks and seeds, from 1e-3: geometric mean of the first's losses over "
        "the second's, and the paired t-test on their logarithms, corrected by Holm. A small p is about the seeds of "
        "these tasks, not about other tasks.\n"
    )


def _level_rows(yardstick: Yardstick) -> Iterator[dict[str, str]]:
    for test in yardstick.levels:
        yield {
            "first": test.first,
            "second": test.second,
            "ratio": _text(test.ratio, 4),
            "p": p_text(test.p),
            "pairs": str(test.count),
            "diverged": str(test.lost or "–"),
        }


def _place(cell: Cell) -> str:
    start = "" if cell.lr is None else f" from {cell.lr:g}"
    return f"{short_name(cell.task)}{start}"


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{cell.score:.3f}" + (f" ({cell.diverged}/{cell.seeds} diverged)" if cell.diverged else "")


def _share_text(found: Reached) -> str:
    return "–" if found.fraction is None else f"{100 * found.fraction:.0f} %"


def _text(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _unique(results: Sequence[TrialResult], fact: Callable[[TrialResult], str]) -> list[str]:
    return list(dict.fromkeys(map(fact, results)))
