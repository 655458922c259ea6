"""The MNIST study of Baydin et al. 2018: logistic regression and a feed-forward network."""

from __future__ import annotations

from collections.abc import Sequence

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study, grid

TASKS = ("mnist/logistic", "mnist/mlp")
OPTIMIZERS = ("sgd", "sgd-hd", "sgdn", "sgdn-hd", "adam", "adam-hd")


def _trials(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    return grid(request.chosen(TASKS), OPTIMIZERS, request.seeds or 3, request.epochs)


BAYDIN = Study(
    "baydin",
    "logistic regression (10 epochs) and a feed-forward network (100) on MNIST: SGD, SGDN, Adam and their HD forms",
    "Baydin et al. 2018, arXiv 1703.04782, section 4",
    (Stage("", _trials),),
    baselines=("sgd", "sgdn", "adam"),
)
