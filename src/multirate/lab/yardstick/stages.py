"""Which trials the yardstick consists of: a search with one seed, then the chosen and all others with every seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.tuned import best
from multirate.lab.tasks import TASKS
from multirate.lab.yardstick.families import FAMILIES, TUNED
from multirate.lab.yardstick.tasks import DEVELOPMENT, TEST

NAME = "yardstick"
"""What folders of it say they hold."""

SEARCH_FOLDER = "search"

FIRST_SEEDS = {DEVELOPMENT: 0, TEST: 1000}
SEARCH_SEED = 900
"""Distance of the seed of the search from the first one; it is none of those that are scored."""

MOST_SEEDS = 100


@dataclass(frozen=True)
class Request:
    """How much of the yardstick is wanted.

    Attributes:
        group: `development` or `test`.
        tasks: Tasks of that group.
        families: Families to run.
        seeds: How many seeds.
        epochs: Epochs of every trial; None for the tasks' own.
    """

    group: str
    tasks: Sequence[str]
    families: Sequence[str]
    seeds: int
    epochs: int | None = None

    def trial(self, task: str, optimizer: str, seed: int) -> Trial:
        """Return a trial of this length, with a seed counted from the group's first."""
        return Trial(task, optimizer, FIRST_SEEDS[self.group] + seed, self.epochs or TASKS[task].epochs)


def search_trials(request: Request) -> list[Trial]:
    """Return all candidates of the families that are tuned, with the seed of the search."""
    return [
        request.trial(task, optimizer, SEARCH_SEED)
        for task in request.tasks
        for name in request.families
        if FAMILIES[name].kind == TUNED
        for optimizer in FAMILIES[name].candidates
    ]


def final_trials(request: Request, searched: Sequence[TrialResult]) -> list[Trial]:
    """Return what is scored: of tuned families the candidate that the search found best on each task, of others all."""
    chosen = {task: _chosen(request, task, searched) for task in request.tasks}
    return [
        request.trial(task, optimizer, seed)
        for seed in range(request.seeds)
        for task, optimizers in chosen.items()
        for optimizer in optimizers
    ]


def _chosen(request: Request, task: str, searched: Sequence[TrialResult]) -> list[str]:
    own = [result for result in searched if result.task == task]
    return [
        optimizer
        for name in request.families
        for family in [FAMILIES[name]]
        for optimizer in ([best(family.candidates, own)] if family.kind == TUNED else family.candidates)
    ]
