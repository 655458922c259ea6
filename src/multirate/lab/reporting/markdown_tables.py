"""The tables of a report as Markdown: what is kept beside raw results, small and readable as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from multirate.lab.judging.comparisons import p_text
from multirate.lab.markdown import markdown_table
from multirate.lab.reporting.paper import PaperRow
from multirate.lab.reporting.summaries import (
    Summary,
    text_of_difference,
    text_of_interval,
    text_of_reached,
)
from multirate.lab.results import TrialResult


def render_tables(results: Sequence[TrialResult], summaries: Sequence[Summary], paper: Sequence[PaperRow]) -> str:
    """Return the commands, a table for every task, and the paper's figures beside ours."""
    parts = ["# Results\n", *(f"    {command}\n" for command in dict.fromkeys(result.command for result in results))]
    parts += [f"{hardware}\n" for hardware in dict.fromkeys(result.hardware for result in results)]
    for task in dict.fromkeys(summary.task for summary in summaries):
        own = [summary for summary in summaries if summary.task == task]
        parts += [f"## {task}\n", _explanation(own[0]), markdown_table([_row(summary) for summary in own], 1)]
    if paper:
        parts += [
            "## Beside the paper\n",
            "Test accuracy in %, mean (standard error); p: Welch's t-test, corrected by Holm.\n",
            markdown_table(list(_paper_rows(paper)), 2),
        ]
    return "\n".join(parts)


def _explanation(baseline: Summary) -> str:
    return (
        f"Mean ± standard error over the n seeds that did not diverge. Differences are to `{baseline.optimizer}`, with "
        "a 95 % bootstrap interval; p: Welch's t-test, corrected by Holm. Steps to target: median until the test loss, "
        "interpolated between evaluations, reaches the baseline's final mean; in brackets how many seeds get there, "
        "where not all do.\n"
    )


def _row(summary: Summary) -> dict[str, str]:
    loss, accuracy = summary.loss_comparison, summary.accuracy_comparison
    return {
        "optimizer": f"`{summary.optimizer}`",
        "test loss": summary.test_loss.text(4),
        "difference": f"{text_of_difference(loss, 4)} {text_of_interval(loss, 4)}".strip(),
        "p": p_text(None if loss is None else loss.p_corrected),
        "accuracy %": summary.test_accuracy.text(2, scale=100),
        "difference %": f"{text_of_difference(accuracy, 2, 100)} {text_of_interval(accuracy, 2, 100)}".strip(),
        "p of accuracy": p_text(None if accuracy is None else accuracy.p_corrected),
        "n": str(summary.test_loss.count),
        "diverged": str(summary.diverged or "–"),
        "best epoch": "–" if summary.best_epoch is None else f"{summary.best_epoch:g}",
        "steps to target": text_of_reached(summary.steps_to_target, 0),
        "seconds": summary.seconds.text(1),
    }


def _paper_rows(paper: Sequence[PaperRow]) -> Iterator[dict[str, str]]:
    for row in paper:
        difference = row.comparison.difference
        yield {
            "task": row.task,
            "optimizer": f"`{row.optimizer}`",
            "paper": row.paper_text,
            "ours": row.our_text,
            "n": str(row.ours.count),
            "difference": "–" if difference is None else f"{difference:+.2f}",
            "p": p_text(row.p_corrected),
            "": row.mark,
        }
