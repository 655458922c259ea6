"""Means, standard errors and the test between two optimizers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import ttest_ind_from_stats

from multirate.lab.results import TrialResult


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: The mean; None when there are no values.
        standard_error: Sample deviation over the square root of the count; None below two values.
        count: How many values.
    """

    mean: float | None
    standard_error: float | None
    count: int

    def text(self, digits: int, scale: float = 1.0) -> str:
        """Return `mean ± standard error` with so many decimals, both multiplied by `scale`."""
        if self.mean is None:
            return "–"
        text = f"{self.mean * scale:.{digits}f}"
        if self.standard_error is not None:
            text += f" ± {self.standard_error * scale:.{digits}f}"
        return text


@dataclass(frozen=True)
class Summary:
    """One optimizer on one task, over its seeds.

    Attributes:
        task: Name of the task.
        optimizer: Name of the optimizer.
        test_loss: Over the seeds that did not diverge.
        test_accuracy: Over the seeds that did not diverge, 0 to 1.
        seconds: Training time, over the same seeds.
        diverged: How many seeds diverged.
        loss_p: Two-sided p-value of Welch's test of the test loss against the baseline; None for the baseline
            itself and where it is undefined.
        accuracy_p: The same for the test accuracy.
    """

    task: str
    optimizer: str
    test_loss: Estimate
    test_accuracy: Estimate
    seconds: Estimate
    diverged: int
    loss_p: float | None
    accuracy_p: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and its standard error."""
    count = len(values)
    mean = statistics.fmean(values) if count else None
    error = statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return Estimate(mean, error, count)


def welch(values: Sequence[float], baseline: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Welch's t-test, or None where it is undefined.

    It needs two values on each side, and some variation on one of them.
    """
    if min(len(values), len(baseline)) < 2:
        return None
    deviations = statistics.stdev(values), statistics.stdev(baseline)
    if not any(deviations):
        return None
    test = ttest_ind_from_stats(
        statistics.fmean(values), deviations[0], len(values),
        statistics.fmean(baseline), deviations[1], len(baseline),
        equal_var=False,
    )  # fmt: skip
    return float(test.pvalue)


def summarise(results: Iterable[TrialResult], order: Sequence[str]) -> list[Summary]:
    """Summarise trials by task and optimizer.

    Args:
        results: Finished trials.
        order: Optimizers in the order of the summary; the first is the baseline. Those not named follow.

    Returns:
        One summary for every pair that has a trial, tasks in the order of their first appearance.
    """
    cells: dict[tuple[str, str], list[TrialResult]] = {}
    for result in results:
        cells.setdefault((result.task, result.optimizer), []).append(result)
    tasks = list(dict.fromkeys(task for task, _ in cells))
    names = list(dict.fromkeys([*order, *(optimizer for _, optimizer in cells)]))
    return [
        _summary(cells[task, name], cells.get((task, names[0]), []))
        for task in tasks
        for name in names
        if (task, name) in cells
    ]


def _summary(results: Sequence[TrialResult], baseline: Sequence[TrialResult]) -> Summary:
    is_baseline = results is baseline
    losses, accuracies = _values(results, _loss), _values(results, _accuracy)
    return Summary(
        task=results[0].task,
        optimizer=results[0].optimizer,
        test_loss=estimate(losses),
        test_accuracy=estimate(accuracies),
        seconds=estimate([result.seconds for result in results if not result.diverged]),
        diverged=sum(result.diverged for result in results),
        loss_p=None if is_baseline else welch(losses, _values(baseline, _loss)),
        accuracy_p=None if is_baseline else welch(accuracies, _values(baseline, _accuracy)),
    )


def _values(results: Iterable[TrialResult], measure: Callable[[TrialResult], float | None]) -> list[float]:
    return [value for result in results if (value := measure(result)) is not None]


def _loss(result: TrialResult) -> float | None:
    return result.test_loss


def _accuracy(result: TrialResult) -> float | None:
    return result.test_accuracy


def p_text(p: float | None) -> str:
    """Return a p-value as people write it."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
