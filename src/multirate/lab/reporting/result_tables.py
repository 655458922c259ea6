"""What the tables of a report say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from multirate.lab.judging.comparisons import Comparison, p_text
from multirate.lab.judging.estimates import number_texts
from multirate.lab.judging.profiles import Profile
from multirate.lab.judging.robustness import best, rates_within, width_within
from multirate.lab.reporting.columns import Column, Heading, ResultTable, tabulate
from multirate.lab.reporting.families import Family
from multirate.lab.reporting.paper import PaperRow
from multirate.lab.reporting.result_charts import WIDEST_RATIO
from multirate.lab.reporting.summaries import Against, Summary, text_of_difference, text_of_interval, text_of_reached

Row = TypeVar("Row")

NEAR = (1.1, 2.0)
"""How many times the lowest median loss a learning rate may cost and still do well."""


def task_tables(summaries: Sequence[Summary], families: Sequence[Family]) -> list[ResultTable]:
    """Return the tables of one task: results, comparisons with several baselines, robustness to the learning rate.

    Args:
        summaries: Of the task.
        families: Its optimizers that were run with several learning rates.
    """
    tables = [summary_table(summaries)]
    if len(summaries[0].baselines) > 1:
        tables.append(comparison_table(summaries))
    return [*tables, robustness_table(families)] if families else tables


def summary_table(summaries: Sequence[Summary]) -> ResultTable:
    """Return the results of one task; columns in which nothing is known are left out.

    Args:
        summaries: Of the task. With a single baseline, the comparisons with it are in the same table.
    """
    compared = len(summaries[0].baselines) == 1 and len(summaries) > 1
    columns: list[Column[Summary]] = [
        Column(Heading("optimizer", name=True), lambda summary: summary.optimizer),
        Column(
            Heading("test loss"),
            lambda summary: summary.test_loss.text(4),
            number=lambda summary: summary.test_loss.mean,
        ),
    ]
    if compared:
        columns += _comparison_columns(
            ("difference", "p"), lambda summary: summary.against[0].loss if summary.against else None, 4, detail=True
        )
    if _has_accuracy(summaries):
        columns.append(
            Column(
                Heading("accuracy %"),
                lambda summary: summary.test_accuracy.text(2, scale=100),
                number=lambda summary: summary.test_accuracy.mean,
                better=max,
            )
        )
        if compared:
            columns += _comparison_columns(
                ("difference %", "p of accuracy"),
                lambda summary: summary.against[0].accuracy if summary.against else None,
                2,
                100,
                detail=True,
            )
    columns += [
        Column(Heading("n"), lambda summary: str(summary.test_loss.count)),
        Column(Heading("diverged"), lambda summary: str(summary.diverged or "–")),
    ]
    if any(summary.best_epoch is not None for summary in summaries):
        columns.append(Column(Heading("best epoch", detail=True), _best_epoch_text))
    if any(summary.steps_to_target for summary in summaries):
        columns.append(Column(Heading("steps to target"), lambda summary: text_of_reached(summary.steps_to_target, 0)))
    if any(summary.seconds_to_target for summary in summaries):
        columns.append(
            Column(Heading("seconds to target"), lambda summary: text_of_reached(summary.seconds_to_target, 2))
        )
    columns.append(Column(Heading("seconds"), lambda summary: summary.seconds.text(2)))
    return tabulate("Results", _explanation(summaries, compared), columns, summaries)


def comparison_table(summaries: Sequence[Summary]) -> ResultTable:
    """Return every optimizer of one task against every baseline."""
    rows = [(summary.optimizer, against) for summary in summaries for against in summary.against]
    columns: list[Column[tuple[str, Against]]] = [
        Column(Heading("optimizer", name=True), lambda row: row[0]),
        Column(Heading("baseline", name=True), lambda row: row[1].baseline),
        *_comparison_columns(("difference", "p"), lambda row: row[1].loss, 4),
    ]
    if _has_accuracy(summaries):
        columns += _comparison_columns(("difference %", "p of accuracy"), lambda row: row[1].accuracy, 2, 100)
    return tabulate("Against the baselines", _tests_text(summaries), columns, rows)


def robustness_table(families: Sequence[Family]) -> ResultTable:
    """Return how far from its best learning rate each optimizer of a task still does well."""
    columns = [
        Column[Family](Heading("optimizer", name=True), lambda family: family.name),
        Column[Family](Heading("best rate"), _best_rate_text),
        Column[Family](Heading("loss there"), _lowest_text, number=_lowest),
        *(column for factor in NEAR for column in _near_columns(factor)),
    ]
    return tabulate(
        "Robustness to the learning rate",
        "Between which initial rates the final test loss (median over seeds, where a diverged one counts as the worst) "
        "stays within a factor of the optimizer's own lowest, interpolated over the logarithm of the rate. "
        "≥: up to the edge of the rates that were tried.",
        columns,
        families,
    )


def profile_table(profiles: Mapping[str, Profile]) -> ResultTable:
    """Return the area under every performance profile."""
    columns: list[Column[tuple[str, Profile]]] = [
        Column(Heading("method", name=True), lambda row: row[0]),
        Column(
            Heading("score"),
            lambda row: f"{row[1].score(WIDEST_RATIO):.3f}",
            number=lambda row: row[1].score(WIDEST_RATIO),
            better=max,
        ),
        Column(Heading("lowest loss on"), lambda row: f"{100 * row[1].at(1.0):.0f} % of tasks"),
    ]
    return tabulate(
        "Performance profiles in numbers",
        f"Score: mean over ratios from 1 to {WIDEST_RATIO:g} of the share of tasks on which the final test loss "
        "(median over seeds) is within that ratio of the lowest; 1 for a method that is best on every task.",
        columns,
        list(profiles.items()),
    )


def paper_table(rows: Sequence[PaperRow]) -> ResultTable:
    """Return a paper's figures beside ours."""
    columns: list[Column[PaperRow]] = [
        Column(Heading("task", name=True), lambda row: row.task),
        Column(Heading("optimizer", name=True), lambda row: row.optimizer),
        Column(Heading("paper"), lambda row: row.paper_text),
        Column(Heading("n of paper", detail=True), lambda row: str(row.paper.count)),
        Column(Heading("ours"), lambda row: row.our_text),
        Column(Heading("n"), lambda row: str(row.ours.count)),
        *_comparison_columns(("difference", "p"), lambda row: row.comparison, 2),
        Column(Heading(""), lambda row: row.mark),
    ]
    return tabulate(
        "Beside the paper",
        "Test accuracy in per cent: mean (standard error). The difference is ours minus the paper's, with its 95 % "
        "interval; p: Welch's t-test from these figures, corrected by Holm's method for all rows. "
        "▲ ours is significantly above, ▼ below, ≈ no significant difference at 5 %.",
        columns,
        rows,
    )


def _comparison_columns(
    headings: tuple[str, str],
    comparison: Callable[[Row], Comparison | None],
    digits: int,
    scale: float = 1.0,
    *,
    detail: bool = False,
) -> list[Column[Row]]:
    def p_value(row: Row) -> str:
        found = comparison(row)
        return p_text(None if found is None else found.p_corrected)

    return [
        Column(
            Heading(headings[0], detail=detail),
            lambda row: text_of_difference(comparison(row), digits, scale),
            lambda row: text_of_interval(comparison(row), digits, scale),
        ),
        Column(Heading(headings[1]), p_value),
    ]


def _near_columns(factor: float) -> list[Column[Family]]:
    return [
        Column(Heading(f"rates within {factor:g}×"), lambda family: _rates_text(family, factor)),
        Column(Heading(f"decades within {factor:g}×"), lambda family: _decades_text(family, factor)),
    ]


def _explanation(summaries: Sequence[Summary], compared: bool) -> str:
    sentences = ["Mean ± standard error over the n seeds that did not diverge."]
    if compared:
        sentences.append(f"Differences: to {summaries[0].optimizer}. {_tests_text(summaries)}")
    target = summaries[0].target
    if target is not None and any(summary.steps_to_target for summary in summaries):
        [text] = number_texts([target], 4)
        sentences.append(
            f"Target: a test loss of {text}, the mean final one of {summaries[0].optimizer}; steps and seconds of "
            "training until the loss, interpolated between evaluations, first reaches it: median over all seeds, with "
            "how many get there where not all do."
        )
    sentences.append("Seconds: time in training steps alone, without evaluation.")
    return " ".join(sentences)


def _tests_text(summaries: Sequence[Summary]) -> str:
    together = ", losses and accuracies together" if _has_accuracy(summaries) else ""
    return (
        "In brackets: 95 % bootstrap intervals, not corrected. p: Welch's t-test, two-sided, corrected by Holm's "
        f"method for all tests of this table{together}."
    )


def _has_accuracy(summaries: Sequence[Summary]) -> bool:
    return any(summary.test_accuracy.count for summary in summaries)


def _rates_text(family: Family, factor: float) -> str:
    rates = _rates(family, factor)
    return "–" if rates is None else " to ".join(f"{rate:.2g}" for rate in rates)


def _decades_text(family: Family, factor: float) -> str:
    rates = _rates(family, factor)
    if rates is None:
        return "–"
    at_edge = rates[0] == family.curve[0].lr or rates[1] == family.curve[-1].lr
    return f"{'≥ ' if at_edge else ''}{width_within(family.curve, factor):.1f}"


def _rates(family: Family, factor: float) -> tuple[float, float] | None:
    # A factor of a loss that is zero or less means nothing.
    return rates_within(family.curve, factor) if (_lowest(family) or 0) > 0 else None


def _lowest(family: Family) -> float | None:
    point = best(family.curve)
    return None if point is None else point.median


def _best_rate_text(family: Family) -> str:
    point = best(family.curve)
    return "–" if point is None else f"{point.lr:g}"


def _lowest_text(family: Family) -> str:
    lowest = _lowest(family)
    return "–" if lowest is None else number_texts([lowest], 4)[0]


def _best_epoch_text(summary: Summary) -> str:
    return "–" if summary.best_epoch is None else f"{summary.best_epoch:g}"
