"""Tuned baselines with a schedule, and levels at tuned hyper rates, all with the same number of tries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study
from multirate.lab.tasks import TASKS as ALL_TASKS
from multirate.lab.variants import Setting, Variant

TASKS = ("mnist/ffnn-1000-100", "cifar10/lenet")
SEARCH_FOLD = 0

_ADAM_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_SGD_RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_SCHEDULE_FREE_RATES = (5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2)
_HYPER_RATES = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
_LEVELS: Mapping[str, Mapping[str, Setting]] = {
    "global": {"levels": ("global",), "weights": (1.0,)},
    "layer": {"levels": ("layer",), "weights": (1.0,)},
    "unit": {"levels": ("unit",), "weights": (1.0,)},
    "global and layer": {"levels": ("global", "layer"), "weights": (0.5, 0.5)},
    "global and unit": {"levels": ("global", "unit"), "weights": (0.8, 0.2)},
}


def named_families() -> dict[str, list[str]]:
    """Return the candidates of every method, by its name; the best of each is compared with the others.

    A method with a rate or a hyper rate to choose gets five tries. Those that claim to need no choice get none.
    """
    found = {}
    for optimizer, rates in (("adam", _ADAM_RATES), ("adamw", _ADAM_RATES), ("sgdn", _SGD_RATES)):
        for schedule in ("constant", "cosine"):
            found[f"{optimizer}, tuned, {schedule}"] = [str(Variant(optimizer, {"lr": lr}, schedule)) for lr in rates]
    found["schedule-free, tuned"] = [str(Variant("schedule-free", {"lr": lr})) for lr in _SCHEDULE_FREE_RATES]
    for levels, options in _LEVELS.items():
        found[f"levels: {levels}"] = [
            str(Variant("adam-cam-hd", {**options, "hyper_lr": beta})) for beta in _HYPER_RATES
        ]
    return {**found, "prodigy": ["prodigy"], "prodigy, cosine": ["prodigy+cosine"], "multirate": ["multirate"]}


def families() -> list[list[str]]:
    """Return the candidates of every method."""
    return list(named_families().values())


def _search(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    return [
        Trial(task, optimizer, 0, request.epochs or ALL_TASKS[task].epochs, fold=SEARCH_FOLD)
        for task in request.chosen(TASKS)
        for family in families()
        for optimizer in family
        if len(family) > 1
    ]


def _final(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    return [
        Trial(task, best(family, [result for result in earlier if result.task == task]), seed, epochs)
        for seed in range(request.seeds or 5)
        for task in request.chosen(TASKS)
        for epochs in [request.epochs or ALL_TASKS[task].epochs]
        for family in families()
    ]


def best(family: Sequence[str], results: Sequence[TrialResult]) -> str:
    """Return the candidate with the lowest held-out loss; the first when none has one."""
    losses = {result.optimizer: result.test_loss for result in results if result.test_loss is not None}
    return min((name for name in family if name in losses), key=losses.__getitem__, default=family[0])


TUNED = Study(
    "tuned",
    "Adam, AdamW, SGDN with tuned rates, with and without a schedule; levels at tuned hyper rates; rate-free methods",
    "multirate",
    (Stage("search", _search), Stage("", _final)),
)
