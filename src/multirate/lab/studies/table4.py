"""Table 4 of arXiv 2008.07277: ResNets on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study, grid

TASKS = ("cifar10/resnet18", "cifar10/resnet34")
OPTIMIZERS = (
    "adam",
    "adam-hd",
    "adam-cam-hd",
    "adabound",
    # AdaBound as Eq. 36 has it: the paper's form differs from the released one by more than what is learned.
    "adabound-cam-hd:hyper_lr=0.0:weight_lr=0.0",
    "adabound-cam-hd",
    "sgdn+step",
    "sgdn-cam-hd+step",
)
FIRST_EPOCHS = 40
"""Trained by all before anything else: 200 epochs of every cell and seed are more than most have time for."""


def _trials(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    return grid(request.chosen(TASKS), OPTIMIZERS, request.seeds or 10, request.epochs)


TABLE4 = Study(
    "table4",
    "ResNet-18 and ResNet-34 on CIFAR-10, 200 epochs, the first 40 of all trials before the rest: needs a GPU",
    "arXiv 2008.07277, Table 4",
    (Stage("", _trials),),
    first=FIRST_EPOCHS,
    baselines=("adam", "adam-hd", "adabound", "sgdn+step"),
)
