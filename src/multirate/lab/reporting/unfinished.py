"""Trials that were left in their middle: how far they are and their curves so far, apart from all results."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from multirate.lab.markdown import markdown_table
from multirate.lab.reporting.charts import Chart, assign_looks
from multirate.lab.reporting.curve_charts import learning_chart
from multirate.lab.results import Unfinished

KEY = "unfinished"


def unfinished_charts(left: Sequence[Unfinished]) -> Iterator[Chart]:
    """Yield a chart of learning curves for every task that has trials left in their middle."""
    for task in dict.fromkeys(each.trial.task for each in left):
        runs: dict[str, list[dict[str, object]]] = {}
        for each in left:
            if each.trial.task == task:
                label = f"{each.trial.optimizer}, {each.epoch} of {each.trial.epochs} epochs"
                runs.setdefault(label, []).append(dict(each.curves))
        yield dataclasses.replace(
            learning_chart(runs, assign_looks(runs)),
            key=f"{KEY}-{task.replace('/', '-')}",
            title=f"Unfinished: {task}",
            caption="Trials that are to be gone on with, as far as they are: none of them is in the tables or in "
            "another chart. Mean over seeds; the band is one standard error to either side.",
        )


def render_unfinished(left: Sequence[Unfinished]) -> str:
    """Return a table of the trials, in Markdown."""
    rows = [
        {
            "task": each.trial.task,
            "optimizer": f"`{each.trial.optimizer}`",
            "seed": str(each.trial.seed),
            "epochs so far": f"{each.epoch} of {each.trial.epochs}",
            "test loss so far": _last(each.curves.get("test_loss"), ".4f"),
            "accuracy so far": _last(each.curves.get("test_accuracy"), ".2%"),
        }
        for each in left
    ]
    text = "Trials that are to be gone on with: the same command does. None of these figures is a result.\n"
    return f"# Unfinished\n\n{text}\n{markdown_table(rows, 2)}"


def _last(curve: Sequence[float | None] | None, form: str) -> str:
    return "–" if not curve or curve[-1] is None else format(curve[-1], form)
