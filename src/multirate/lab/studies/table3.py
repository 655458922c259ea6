"""Table 3 of arXiv 2008.07277: LeNet-5 on MNIST, CIFAR-10 and SVHN."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from multirate.lab.data.dataset import FOLDS
from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study, tasks_at_hand

TASKS = ("mnist/lenet", "cifar10/lenet", "svhn/lenet")
OPTIMIZERS = ("adam", "adam-hd", "adam-cam-hd", "adam-l4", "adabound", "radam")
MOST_EPOCHS = 100
PATIENCE = 3


def _folds(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    """Five-fold cross-validation with early stopping: how long each optimizer should train on each data set.

    All five folds whatever the number of seeds: another number would choose other epochs, and results over those could
    not be added to.
    """
    return [
        Trial(task, optimizer, fold, request.epochs or MOST_EPOCHS, fold, PATIENCE)
        for fold in range(FOLDS)
        for task in tasks_at_hand(request, TASKS)
        for optimizer in OPTIMIZERS
    ]


def _whole(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    """Training on the whole training set for as many epochs as the folds took to their lowest loss, on average."""
    best: dict[tuple[str, str], list[int]] = {}
    for result in earlier:
        if result.best_epoch is not None:
            best.setdefault((result.task, result.optimizer), []).append(result.best_epoch)
    return [
        Trial(task, optimizer, seed, max(1, round(statistics.fmean(best.get((task, optimizer), [1])))))
        for seed in range(request.seeds or 5)
        for task in tasks_at_hand(request, TASKS)
        for optimizer in OPTIMIZERS
    ]


TABLE3 = Study(
    "table3",
    "LeNet-5 on MNIST, CIFAR-10 and, where at hand, SVHN: epochs chosen by cross-validation with early stopping",
    "arXiv 2008.07277, Table 3",
    (Stage("folds", _folds), Stage("", _whole)),
    baselines=("adam", "adam-hd", "adam-l4", "adabound", "radam"),
)
