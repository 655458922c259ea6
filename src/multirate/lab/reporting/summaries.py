"""From trials to the lines of a table: one for every optimizer on every task."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from multirate.lab.judging.comparisons import Comparison, compare
from multirate.lab.judging.estimates import Estimate, estimate, number_texts
from multirate.lab.judging.targets import Reached, reached, steps_to_target, time_to_target
from multirate.lab.recording import rounded
from multirate.lab.reporting.families import find_families, stands_for
from multirate.lab.results import Trial, TrialResult

Curves: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Against:
    """One optimizer against a baseline.

    Attributes:
        baseline: The baseline's variant.
        loss: By the final test loss.
        accuracy: By the final test accuracy, 0 to 1.
    """

    baseline: str
    loss: Comparison
    accuracy: Comparison


@dataclass(frozen=True)
class Summary:
    """One optimizer on one task, over its seeds.

    Attributes:
        task: Name of the task.
        optimizer: The variant of an optimizer.
        test_loss: Over the seeds that did not diverge.
        test_accuracy: Over the seeds that did not diverge, 0 to 1.
        baselines: Variants of the baselines of the task, in the order wanted.
        against: The comparisons with these, p-values corrected by Holm's method for all comparisons of the task, of
            losses and of accuracies; none for a baseline.
        diverged: How many seeds diverged.
        best_epoch: Median over seeds of the epoch with the lowest test loss; None when not known.
        target: The test loss to reach: the mean final one of the first baseline.
        steps_to_target: Over all seeds; None when no curves tell.
        seconds_to_target: In training time, over all seeds; None when no curves tell.
        seconds: Training time, over the seeds that did not diverge.
    """

    task: str
    optimizer: str
    test_loss: Estimate
    test_accuracy: Estimate
    baselines: Sequence[str]
    against: Sequence[Against]
    diverged: int
    best_epoch: float | None
    target: float | None
    steps_to_target: Reached | None
    seconds_to_target: Reached | None
    seconds: Estimate


def summarise(
    results: Iterable[TrialResult],
    order: Sequence[str],
    curves: Mapping[Trial, Curves] | None = None,
    baselines: Sequence[str] = (),
) -> list[Summary]:
    """Summarise trials by task and optimizer.

    Args:
        results: Finished trials.
        order: Optimizers in the order of the summary. Those not named follow.
        curves: Of those trials that have some.
        baselines: What to compare with, by names as `stands_for` takes them. A task that has none of them, as without
            any named, has its first optimizer, of several learning rates that with the lowest loss; one that has
            nothing else has the first of them.

    Returns:
        One summary for every pair that has a trial, tasks in the order of their first appearance, baselines first.
    """
    cells: dict[str, dict[str, list[TrialResult]]] = {}
    for result in results:
        cells.setdefault(result.task, {}).setdefault(result.optimizer, []).append(result)
    names = list(dict.fromkeys([*order, *(optimizer for cell in cells.values() for optimizer in cell)]))
    summaries: list[Summary] = []
    for cell in cells.values():
        ordered = {name: cell[name] for name in names if name in cell}
        chosen = _baselines(ordered, baselines)
        first = {name: ordered[name] for name in chosen}
        summaries += _summarise_task({**first, **ordered}, chosen, curves or {})
    return summaries


def _baselines(cell: Mapping[str, Sequence[TrialResult]], wanted: Sequence[str]) -> list[str]:
    results = [result for own in cell.values() for result in own]
    named = (stands_for(name, results) for name in wanted)
    found = list(dict.fromkeys(variant for variant in named if variant is not None))
    if found:
        # Of a study under way there may be nothing but baselines: then the others are compared with the first.
        return found if len(found) < len(cell) else found[:1]
    first = next(iter(cell))
    return [next((family.best for family in find_families(results) if first in family.variants.values()), first)]


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
    texts = _texts(comparison, digits, scale)
    return texts[0] if texts else "–"


def text_of_interval(comparison: Comparison | None, digits: int, scale: float = 1.0) -> str:
    """Return the interval of the difference, written alike; nothing where it is undefined."""
    _, *ends = _texts(comparison, digits, scale) or [""]
    return f"[{', '.join(ends)}]" if ends else ""


def _texts(comparison: Comparison | None, digits: int, scale: float) -> list[str]:
    """Return the difference and the ends of its interval, as far as they are known."""
    if comparison is None or comparison.difference is None:
        return []
    values = [scale * value for value in (comparison.difference, *(comparison.interval or ()))]
    return [re.sub("^-", "−", text) for text in number_texts(values, digits, sign="+")]


def _summarise_task(
    cell: Mapping[str, Sequence[TrialResult]], baselines: Sequence[str], curves: Mapping[Trial, Curves]
) -> list[Summary]:
    losses = {name: _values(results, _loss) for name, results in cell.items()}
    accuracies = {name: _values(results, _accuracy) for name, results in cell.items()}
    by_loss, by_accuracy = compare([losses, accuracies], baselines)
    mean = estimate(losses[baselines[0]]).mean
    # As curves are kept, so that a single seed reaches its own loss.
    target = None if mean is None else rounded(mean)
    return [
        Summary(
            task=results[0].task,
            optimizer=name,
            test_loss=estimate(losses[name]),
            test_accuracy=estimate(accuracies[name]),
            baselines=baselines,
            against=[
                Against(baseline, by_loss[name, baseline], by_accuracy[name, baseline])
                for baseline in baselines
                if name not in baselines
            ],
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
