"""What the yardstick says: scores of every method on every task, from finished trials."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from multirate.lab.judging.estimates import Estimate, estimate
from multirate.lab.judging.scores import PairTest, geometric_mean, loss_ratio, pair_tests
from multirate.lab.judging.targets import Reached, reached, steps_to_target
from multirate.lab.recording import rounded
from multirate.lab.results import Trial, TrialResult
from multirate.lab.variants import Variant
from multirate.lab.yardstick.families import BY_LEVEL, FAMILIES, HIGHEST_SCORED_RATE, OURS, TUNED, family_of
from multirate.lab.yardstick.tasks import YARDSTICK

Curves: TypeAlias = Mapping[Trial, Mapping[str, Any]]


@dataclass(frozen=True)
class Target:
    """The best tuned run of a task, by which all others are measured.

    Attributes:
        optimizer: Its variant.
        loss: Mean final test loss over its seeds.
        steps: How many steps it took.
        seconds: Mean training time.
    """

    optimizer: str
    loss: Estimate
    steps: int
    seconds: float

    @property
    def mean(self) -> float:
        """The mean loss."""
        assert self.loss.mean is not None
        return self.loss.mean

    @property
    def at_edge(self) -> bool:
        """Whether its rate is the lowest or the highest that was tried, so that a better one may lie beyond."""
        family = family_of(self.optimizer)
        assert family is not None
        rates = [_rate(name) for name in family.candidates]
        return _rate(self.optimizer) in (min(rates), max(rates))


@dataclass(frozen=True)
class Cell:
    """One variant on one task, over its seeds.

    Attributes:
        task: Name of the task.
        method: The line of the table that it belongs to.
        optimizer: The variant.
        lr: Starting rate; None for opponents.
        score: Mean over seeds of the loss over the target's.
        diverged: How many seeds diverged.
        seeds: How many there are.
        shares: Of every seed whose curves are kept, steps until the target's loss over the target's steps; None for
            never.
        time: Training time over the target's, of the seeds that did not diverge; None when all did.
    """

    task: str
    method: str
    optimizer: str
    lr: float | None
    score: float
    diverged: int
    seeds: int
    shares: tuple[float | None, ...]
    time: float | None

    @property
    def apart(self) -> bool:
        """Whether its starting rate is above those that are scored together."""
        return self.lr is not None and self.lr > HIGHEST_SCORED_RATE


@dataclass(frozen=True)
class MethodScore:
    """A method over all tasks, and over all starting rates where it has several.

    Attributes:
        method: Its name.
        kind: Of its family.
        score: Geometric mean of the cells that are scored together.
        worst: The worst of them.
        high: Geometric mean at starting rates above; None where there are none.
        high_worst: The worst of those.
        by_task: Geometric mean of the cells of every task.
        reached: When the target's loss was reached, as a share of the target's steps; over all tasks and seeds.
        time: Geometric mean of the training time over the target's; None when all runs diverged.
        diverged: How many runs diverged.
        runs: How many there are.
    """

    method: str
    kind: str
    score: float
    worst: Cell
    high: float | None
    high_worst: Cell | None
    by_task: Mapping[str, float]
    reached: Reached
    time: float | None
    diverged: int
    runs: int


@dataclass(frozen=True)
class Yardstick:
    """All scores of a folder.

    Attributes:
        tasks: Every task that has a target, in the order of the table of tasks.
        targets: By task.
        unmeasured: Tasks without a finished tuned run.
        missing: Tuned families that have no run on some task, by task.
        cells: All variants on all tasks.
        methods: In the order of the families.
        levels: Every two sets of levels against each other.
    """

    tasks: Sequence[str]
    targets: Mapping[str, Target]
    unmeasured: Sequence[str]
    missing: Mapping[str, Sequence[str]]
    cells: Sequence[Cell]
    methods: Sequence[MethodScore]
    levels: Sequence[PairTest]


def score(results: Iterable[TrialResult], curves: Curves) -> Yardstick:
    """Score finished trials; those of no family of the yardstick are passed over.

    Args:
        results: Of the final stage.
        curves: Of those trials that have some.
    """
    known = [result for result in results if result.task in YARDSTICK and family_of(result.optimizer)]
    own: dict[tuple[str, str], list[TrialResult]] = {}
    for result in known:
        own.setdefault((result.task, result.optimizer), []).append(result)
    present = {task for task, _ in own}
    tasks = [task for task in YARDSTICK if task in present]
    targets = {task: target for task in tasks if (target := _target(task, own)) is not None}
    cells = [_cell(group, targets[task], curves) for (task, _), group in own.items() if task in targets]
    return Yardstick(
        tasks=list(targets),
        targets=targets,
        unmeasured=[task for task in tasks if task not in targets],
        missing={task: absent for task in targets if (absent := _missing(task, own))},
        cells=cells,
        methods=_methods(_best_of_tuned(cells)),
        levels=_level_tests(known),
    )


def _target(task: str, own: Mapping[tuple[str, str], Sequence[TrialResult]]) -> Target | None:
    """Return the tuned run with the lowest mean loss, of those without a diverged seed."""
    found = [
        (statistics.fmean(losses), optimizer, group)
        for (its_task, optimizer), group in own.items()
        if its_task == task and _kind(optimizer) == TUNED
        for losses in [[result.test_loss for result in group if result.test_loss is not None]]
        if len(losses) == len(group)
    ]
    if not found:
        return None
    _, optimizer, group = min(found, key=lambda entry: entry[0])
    losses = [result.test_loss for result in group if result.test_loss is not None]
    seconds = statistics.fmean(result.seconds for result in group)
    return Target(optimizer, estimate(losses), group[0].steps, seconds)


def _missing(task: str, own: Mapping[tuple[str, str], Sequence[TrialResult]]) -> list[str]:
    tuned = [family for family in FAMILIES.values() if family.kind == TUNED]
    return [family.name for family in tuned if not any((task, name) in own for name in family.candidates)]


def _cell(group: Sequence[TrialResult], target: Target, curves: Curves) -> Cell:
    task, optimizer = group[0].task, group[0].optimizer
    family = family_of(optimizer)
    assert family is not None
    floor = YARDSTICK[task].floor
    times = [result.seconds for result in group if not result.diverged]
    return Cell(
        task=task,
        method=family.method(optimizer),
        optimizer=optimizer,
        lr=_rate(optimizer) if family.kind == OURS else None,
        score=statistics.fmean(loss_ratio(result.test_loss, target.mean, floor) for result in group),
        diverged=sum(result.diverged for result in group),
        seeds=len(group),
        shares=tuple(
            _share(curves[result.trial], target) for result in group if "epoch_step" in curves.get(result.trial, {})
        ),
        time=statistics.fmean(times) / target.seconds if times else None,
    )


def _rate(optimizer: str) -> float:
    lr = Variant.parse(optimizer).options["lr"]
    assert isinstance(lr, (int, float))
    return float(lr)


def _share(curve: Mapping[str, Any], target: Target) -> float | None:
    losses = [float("nan") if loss is None else loss for loss in curve["test_loss"]]
    # As curves are kept, so that a single seed reaches its own loss.
    mean = rounded(target.mean)
    assert mean is not None
    steps = steps_to_target(curve["epoch_step"], losses, mean)
    return None if steps is None else steps / target.steps


def _best_of_tuned(cells: Sequence[Cell]) -> list[Cell]:
    """Leave out tuned cells but the best of their family on each task: an earlier search may have chosen others."""
    best: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        key = cell.task, cell.method
        if _kind(cell.optimizer) == TUNED and (key not in best or cell.score < best[key].score):
            best[key] = cell
    return [cell for cell in cells if best.get((cell.task, cell.method), cell) is cell]


def _methods(cells: Sequence[Cell]) -> list[MethodScore]:
    order = [family.method(name) for family in FAMILIES.values() for name in family.candidates]
    by_method = {method: [cell for cell in cells if cell.method == method] for method in dict.fromkeys(order)}
    return [_method(method, own) for method, own in by_method.items() if any(not cell.apart for cell in own)]


def _method(method: str, cells: Sequence[Cell]) -> MethodScore:
    near, apart = [cell for cell in cells if not cell.apart], [cell for cell in cells if cell.apart]
    tasks = dict.fromkeys(cell.task for cell in near)
    by_task = {task: _mean(cell for cell in near if cell.task == task) for task in tasks}
    return MethodScore(
        method=method,
        kind=_kind(cells[0].optimizer),
        score=_mean(near),
        worst=max(near, key=_score),
        high=geometric_mean(cell.score for cell in apart),
        high_worst=max(apart, key=_score, default=None),
        by_task=by_task,
        reached=reached([share for cell in near for share in cell.shares]),
        time=geometric_mean(cell.time for cell in near if cell.time is not None),
        diverged=sum(cell.diverged for cell in cells),
        runs=sum(cell.seeds for cell in cells),
    )


def _mean(cells: Iterable[Cell]) -> float:
    return statistics.geometric_mean([cell.score for cell in cells])


def _score(cell: Cell) -> float:
    return cell.score


def _level_tests(results: Sequence[TrialResult]) -> list[PairTest]:
    losses: dict[str, dict[tuple[str, int], float | None]] = {}
    for result in results:
        family = family_of(result.optimizer)
        if family is not None and family.kind == BY_LEVEL:
            losses.setdefault(family.method(result.optimizer), {})[result.task, result.seed] = result.test_loss
    return pair_tests(losses, {name: entry.floor for name, entry in YARDSTICK.items()})


def _kind(optimizer: str) -> str:
    family = family_of(optimizer)
    assert family is not None
    return family.kind
