"""From trials to the lines of a table: one for every optimizer on every task."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from multirate.lab.judging.comparisons import Comparison, compare
from multirate.lab.judging.estimates import Estimate, estimate
from multirate.lab.judging.targets import Reached, reached, steps_to_target, time_to_target
from multirate.lab.recording import rounded
from multirate.lab.reporting.families import find_families
from multirate.lab.results import Trial, TrialResult

Curves: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """One optimizer on one task, over its seeds.

    Attributes:
        task: Name of the task.
        optimizer: The variant of an optimizer.
        test_loss: Over the seeds that did not diverge.
        loss_comparison: With the baseline, the first optimizer of the task; None for itself.
        test_accuracy: Over the seeds that did not diverge, 0 to 1.
        accuracy_comparison: The same as for the loss.
        diverged: How many seeds diverged.
        best_epoch: Median over seeds of the epoch with the lowest test loss; None when not known.
        target: The test loss to reach: the mean final one of the baseline.
        steps_to_target: Over all seeds; None when no curves tell.
        seconds_to_target: In training time, over all seeds; None when no curves tell.
        seconds: Training time, over the seeds that did not diverge.
    """

    task: str
    optimizer: str
    test_loss: Estimate
    loss_comparison: Comparison | None
    test_accuracy: Estimate
    accuracy_comparison: Comparison | None
    diverged: int
    best_epoch: float | None
    target: float | None
    steps_to_target: Reached | None
    seconds_to_target: Reached | None
    seconds: Estimate


def summarise(
    results: Iterable[TrialResult], order: Sequence[str], curves: Mapping[Trial, Curves] | None = None
) -> list[Summary]:
    """Summarise trials by task and optimizer.

    Args:
        results: Finished trials.
        order: Optimizers in the order of the summary. Those not named follow. The first of a task is its baseline;
            where it was run with several learning rates, that one of them with the lowest loss is.
        curves: Of those trials that have some.

    Returns:
        One summary for every pair that has a trial, tasks in the order of their first appearance.
    """
    cells: dict[str, dict[str, list[TrialResult]]] = {}
    for result in results:
        cells.setdefault(result.task, {}).setdefault(result.optimizer, []).append(result)
    names = list(dict.fromkeys([*order, *(optimizer for cell in cells.values() for optimizer in cell)]))
    ordered = [_baseline_first({name: cell[name] for name in names if name in cell}) for cell in cells.values()]
    return [summary for cell in ordered for summary in _summarise_task(cell, curves or {})]


def _baseline_first(cell: dict[str, list[TrialResult]]) -> dict[str, list[TrialResult]]:
    first = next(iter(cell))
    families = find_families([result for results in cell.values() for result in results])
    baseline = next((family.best for family in families if first in family.variants.values()), first)
    return {baseline: cell[baseline], **cell}


def text_of_reached(found: Reached | None, digits: int) -> str:
    """Return the median with so many decimals, and the share of seeds that arrived where not all did."""
    if found is None or found.fraction is None:
        return "–"
    if found.fraction == 0:
        return "never"
    median = "–" if found.median is None else f"{found.median:.{digits}f}"
    return median if found.fraction == 1 else f"{median} ({round(found.fraction * found.count)}/{found.count})"


def text_of_difference(comparison: Comparison | None, digits: int, scale: float = 1.0) -> str:
    """Return the signed difference with so many decimals, multiplied by `scale`."""
    if comparison is None or comparison.difference is None:
        return "–"
    return _signed(comparison.difference * scale, digits)


def text_of_interval(comparison: Comparison | None, digits: int, scale: float = 1.0) -> str:
    """Return the interval of the difference, written alike; nothing where it is undefined."""
    if comparison is None or comparison.interval is None:
        return ""
    low, high = comparison.interval
    return f"[{_signed(low * scale, digits)}, {_signed(high * scale, digits)}]"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _summarise_task(cell: Mapping[str, Sequence[TrialResult]], curves: Mapping[Trial, Curves]) -> list[Summary]:
    baseline = next(iter(cell))
    losses = {name: _values(results, _loss) for name, results in cell.items()}
    accuracies = {name: _values(results, _accuracy) for name, results in cell.items()}
    loss_comparisons = compare(losses, baseline)
    accuracy_comparisons = compare(accuracies, baseline)
    mean = estimate(losses[baseline]).mean
    # As curves are kept, so that a single seed reaches its own loss.
    target = None if mean is None else rounded(mean)
    return [
        Summary(
            task=results[0].task,
            optimizer=name,
            test_loss=estimate(losses[name]),
            loss_comparison=loss_comparisons.get(name),
            test_accuracy=estimate(accuracies[name]),
            accuracy_comparison=accuracy_comparisons.get(name),
            diverged=sum(result.diverged for result in results),
            best_epoch=_best_epoch(results),
            target=target,
            steps_to_target=_reached(results, curves, target, "epoch_step", steps_to_target),
            seconds_to_target=_reached(results, curves, target, "epoch_seconds", time_to_target),
            seconds=estimate([result.seconds for result in results if not result.diverged]),
        )
        for name, results in cell.items()
    ]


def _reached(
    results: Sequence[TrialResult],
    curves: Mapping[Trial, Curves],
    target: float | None,
    axis: str,
    crossing: Callable[[Sequence[float], Sequence[float], float], float | None],
) -> Reached | None:
    own = [curves[result.trial] for result in results if axis in curves.get(result.trial, {})]
    if target is None or not own:
        return None
    return reached([crossing(each[axis], _with_nan(each["test_loss"]), target) for each in own])


def _with_nan(curve: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in curve]


def _best_epoch(results: Sequence[TrialResult]) -> float | None:
    known = [result.best_epoch for result in results if result.best_epoch is not None]
    return float(statistics.median(known)) if known else None


def _values(results: Iterable[TrialResult], measure: Callable[[TrialResult], float | None]) -> list[float]:
    return [value for result in results if (value := measure(result)) is not None]


def _loss(result: TrialResult) -> float | None:
    return result.test_loss


def _accuracy(result: TrialResult) -> float | None:
    return result.test_accuracy
