"""Performance profiles: on which share of the tasks is a method within a factor of the best one."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """The profile of one method, `ρ(τ) = |{tasks: ratio ≤ τ}| / |tasks|`.

    Attributes:
        ratios: Cost over the lowest cost on the task, 1 or more, ascending; only tasks that the method solved.
        tasks: How many tasks, solved or not.
    """

    ratios: tuple[float, ...]
    tasks: int

    def at(self, tau: float) -> float:
        """Return ρ(τ), the share of tasks on which the method's cost is at most τ times the lowest, 0 to 1."""
        return bisect_right(self.ratios, tau) / self.tasks

    def score(self, cap: float = 4.0) -> float:
        """Return `1 / (cap - 1) ∫ ρ(τ) dτ` from 1 to the cap: 1 for a method that is best everywhere, 0 to 1.

        Args:
            cap: The ratio from which a method earns nothing on a task, above 1.

        Raises:
            ValueError: If the cap is not a finite number above 1.

        Reference:
            Dahl et al., Benchmarking Neural Network Training Algorithms, arXiv 2306.07179, whose cap is 4.
        """
        if not (math.isfinite(cap) and cap > 1):
            raise ValueError(f"cap={cap} is not a finite ratio above 1: give one such as 4")
        return sum((cap - ratio) / (cap - 1) for ratio in self.ratios if ratio < cap) / self.tasks


def performance_profiles(costs: Mapping[str, Mapping[str, float | None]]) -> dict[str, Profile]:
    """Return the profile of every method, from its cost on every task.

    The ratio of a method on a task is its cost over the lowest cost of any method there; methods that tie for the
    lowest all have ratio 1. A method that failed on a task never counts there, and a task on which all failed counts
    against all. The profiles compare with the best of the given methods only: leaving one out can change the order of
    the others.

    Args:
        costs: By task and then by method, lower is better: steps or seconds to a target, or a final loss. None for a
            method that failed.

    Returns:
        One profile for each method, in the order of the first task.

    Raises:
        ValueError: If there are no tasks or methods, the methods differ between tasks, or a cost is not a finite number
            above 0 (ratios of losses that reach 0 or below mean nothing); it names the task.

    Reference:
        Dolan and Moré, Benchmarking Optimization Software with Performance Profiles, Mathematical Programming 91
        (2002), section 2.
    """
    methods = list(next(iter(costs.values()), {}))
    if not methods:
        raise ValueError("costs is empty: give at least one task with one method")
    ratios: dict[str, list[float]] = {method: [] for method in methods}
    for task, row in costs.items():
        _check(task, row, methods)
        lowest = min((cost for cost in row.values() if cost is not None), default=math.inf)
        for method, cost in row.items():
            if cost is not None:
                ratios[method].append(cost / lowest)
    return {method: Profile(tuple(sorted(ratios[method])), len(costs)) for method in methods}


def ratio_grid(profiles: Iterable[Profile]) -> list[float]:
    """Return 1 and every ratio at which a profile steps up, ascending: the corners of a plot."""
    return sorted({1.0, *(ratio for profile in profiles for ratio in profile.ratios)})


def _check(task: str, row: Mapping[str, float | None], methods: list[str]) -> None:
    if differing := set(row) ^ set(methods):
        raise ValueError(
            f"task {task!r} and the first one differ in {', '.join(sorted(differing))}: "
            "give every method a cost on every task, None where it failed"
        )
    for method, cost in row.items():
        if cost is not None and not (math.isfinite(cost) and cost > 0):
            raise ValueError(
                f"task {task!r}: cost {cost} of {method} is not a finite number above 0: "
                "choose a measure that stays positive, and None for a method that failed"
            )
