"""The tables of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

from multirate.lab.judging.comparisons import Comparison, p_text
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.reporting.paper import PaperRow
from multirate.lab.reporting.summaries import Summary, text_of_difference, text_of_interval, text_of_reached
from multirate.lab.results import TrialResult
from multirate.lab.variants import Variant

Text: TypeAlias = Callable[[Summary], str]


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        heading: What they are.
        text: What a cell says.
        below: What it says below that, in small letters.
        mean: The number by which a cell is the best of its column.
        better: Chooses the best of several numbers.
    """

    heading: str
    text: Text
    below: Text = lambda summary: ""
    mean: Callable[[Summary], float | None] = lambda summary: None
    better: Callable[[list[float]], float] = min


def summary_table(summaries: Sequence[Summary]) -> str:
    """Return the results of one task; columns in which nothing is known are left out.

    Args:
        summaries: Of the task; the first is the baseline.
    """
    columns = _columns(summaries)
    best = [_best(column, summaries) for column in columns]
    rows = [
        _row(
            _cell(summary.optimizer, "name"),
            *(
                _cell(
                    column.text(summary),
                    "number best" if top is not None and column.mean(summary) == top else "number",
                    column.below(summary),
                )
                for column, top in zip(columns, best, strict=True)
            ),
        )
        for summary in summaries
    ]
    heads = [column.heading for column in columns]
    return _table_card("Results", _explanation(summaries), ["optimizer"], heads, rows)


def paper_table(rows: Sequence[PaperRow]) -> str:
    """Return a paper's figures beside ours."""
    return _table_card(
        "The paper's figures and ours",
        "Test accuracy in per cent: mean (standard error). The difference is ours minus the paper's, with its 95 % "
        "interval; p: Welch's t-test from these figures, corrected by Holm's method for all rows. "
        "▲ ours is significantly above, ▼ below, ≈ no significant difference at 5 %.",
        ["task", "optimizer"],
        ["paper", "n", "ours", "n", "difference", "p", ""],
        [
            _row(
                _cell(row.task, "name"),
                _cell(row.optimizer, "name"),
                _cell(row.paper_text, "number"),
                _cell(str(row.paper.count), "number"),
                _cell(row.our_text, "number"),
                _cell(str(row.ours.count), "number"),
                _cell(text_of_difference(row.comparison, 2), "number", text_of_interval(row.comparison, 2)),
                _cell(p_text(row.p_corrected), "number"),
                _cell(row.mark, _mark_kind(row.mark)),
            )
            for row in rows
        ],
    )


def optimizers_table(results: Sequence[TrialResult], summaries: Sequence[Summary]) -> str:
    """Return what every optimizer is and what it was built with."""
    settings = {(result.task, result.optimizer): _settings_text(result.settings) for result in results}
    rows = []
    for summary in summaries:
        entry = OPTIMIZERS.get(Variant.parse(summary.optimizer).optimizer)
        about = f"{entry.description} ({entry.citation})" if entry else ""
        built_with = settings[summary.task, summary.optimizer]
        rows.append(
            _row(
                _cell(summary.optimizer, "name"),
                _cell(summary.task, "name"),
                f"<td>{escape(about)}<br><code>{escape(built_with)}</code></td>",
            )
        )
    heads = ["optimizer", "task", "what it is, and what it was built with"]
    return _table_card("Optimizers and their settings", "", heads, [], rows)


def origin(results: Sequence[TrialResult]) -> str:
    """Return with what and on what the results were made."""
    facts = {
        "command": _unique(result.command for result in results),
        "versions": _unique(
            ", ".join(f"{name} {version}" for name, version in result.versions.items()) for result in results
        ),
        "revision": _unique(result.revision or "not known" for result in results),
        "hardware": _unique(result.hardware for result in results),
        "device": _unique(_settings_text(result.machine) for result in results if result.machine),
    }
    items = "".join(
        f"<dt>{name}</dt><dd>{'<br>'.join(f'<code>{escape(str(value))}</code>' for value in values)}</dd>"
        for name, values in facts.items()
        if values
    )
    return f'<section class="card"><h3>How this was made</h3><dl>{items}</dl></section>'


def _columns(summaries: Sequence[Summary]) -> list[Column]:
    compared = len(summaries) > 1
    columns = [
        Column("test loss", lambda summary: summary.test_loss.text(4), mean=lambda summary: summary.test_loss.mean)
    ]
    if compared:
        columns += _comparison_columns(lambda summary: summary.loss_comparison, 4, 1.0)
    if any(summary.test_accuracy.count for summary in summaries):
        columns.append(
            Column(
                "test accuracy, %",
                lambda summary: summary.test_accuracy.text(2, scale=100),
                mean=lambda summary: summary.test_accuracy.mean,
                better=max,
            )
        )
        if compared:
            columns += _comparison_columns(lambda summary: summary.accuracy_comparison, 2, 100.0)
    columns += [
        Column("n", lambda summary: str(summary.test_loss.count)),
        Column("diverged", lambda summary: str(summary.diverged or "–")),
    ]
    if any(summary.best_epoch is not None for summary in summaries):
        columns.append(Column("best epoch", _best_epoch_text))
    if any(summary.steps_to_target for summary in summaries):
        columns.append(Column("steps to target", lambda summary: text_of_reached(summary.steps_to_target, 0)))
    if any(summary.seconds_to_target for summary in summaries):
        columns.append(Column("seconds to target", lambda summary: text_of_reached(summary.seconds_to_target, 2)))
    columns.append(Column("training seconds", lambda summary: summary.seconds.text(2)))
    return columns


def _comparison_columns(comparison: Callable[[Summary], Comparison | None], digits: int, scale: float) -> list[Column]:
    def p_value(summary: Summary) -> str:
        found = comparison(summary)
        return p_text(None if found is None else found.p_corrected)

    return [
        Column(
            "difference",
            lambda summary: text_of_difference(comparison(summary), digits, scale),
            lambda summary: text_of_interval(comparison(summary), digits, scale),
        ),
        Column("p", p_value),
    ]


def _explanation(summaries: Sequence[Summary]) -> str:
    sentences = ["Mean ± standard error over the n seeds that did not diverge; bold: the best mean."]
    if len(summaries) > 1:
        sentences.append(
            f"Difference: to {summaries[0].optimizer}, with its 95 % bootstrap interval; p: Welch's t-test of it, "
            "two-sided, corrected by Holm's method for the rows of this table."
        )
    target = summaries[0].target
    if target is not None and any(summary.steps_to_target for summary in summaries):
        sentences.append(
            f"Target: a test loss of {target:.4f}, the mean final one of {summaries[0].optimizer}; median over all "
            "seeds of when it was first reached, with how many reached it where not all did."
        )
    sentences.append("Training seconds: time in training steps alone, without evaluation.")
    return " ".join(sentences)


def _best_epoch_text(summary: Summary) -> str:
    return "–" if summary.best_epoch is None else f"{summary.best_epoch:g}"


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items()) or "no settings"


def _best(column: Column, summaries: Sequence[Summary]) -> float | None:
    means = [mean for summary in summaries if (mean := column.mean(summary)) is not None]
    return column.better(means) if len(means) > 1 else None


def _mark_kind(mark: str) -> str:
    return {"▲": "mark above", "▼": "mark below"}.get(mark, "mark")


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _table_card(title: str, explanation: str, names: Sequence[str], numbers: Sequence[str], rows: Sequence[str]) -> str:
    soft = f'<p class="soft">{escape(explanation)}</p>' if explanation else ""
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    heads += "".join(f'<th class="number">{escape(name)}</th>' for name in numbers)
    return (
        f'<section class="card"><h3>{escape(title)}</h3>{soft}<div class="scroll" tabindex="0"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _row(*cells: str) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _cell(text: str, kind: str, below: str = "") -> str:
    small = f"<br><small>{escape(below)}</small>" if below else ""
    return f'<td class="{kind}">{escape(text)}{small}</td>'
