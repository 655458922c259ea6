"""Section 5.1 of arXiv 2008.07277: where the combination weights drift while LeNet-5 trains."""

from __future__ import annotations

from collections.abc import Sequence

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study, grid, tasks_at_hand

TASKS = ("mnist/lenet", "cifar10/lenet", "svhn/lenet")
OPTIMIZERS = ("sgdn-cam-hd", "adam-cam-hd")
EPOCHS = 10


def _trials(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    return grid(tasks_at_hand(request, TASKS), OPTIMIZERS, request.seeds or 3, request.epochs or EPOCHS)


WEIGHTS = Study(
    "weights",
    "how the weights of filter and global level drift while LeNet-5 trains",
    "arXiv 2008.07277, section 5.1",
    (Stage("", _trials),),
)
