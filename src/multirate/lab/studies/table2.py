"""Table 2 of arXiv 2008.07277: feed-forward networks on MNIST."""

from __future__ import annotations

from collections.abc import Sequence

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study, grid

TASKS = ("mnist/ffnn-100-100", "mnist/ffnn-1000-100", "mnist/ffnn-1000-1000")
OPTIMIZERS = ("adam", "adam-hd", "adam-cam-hd", "adam-cam-hd-3")


def _trials(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    return grid(request.chosen(TASKS), OPTIMIZERS, request.seeds or 10, request.epochs)


TABLE2 = Study(
    "table2",
    "feed-forward networks on MNIST: Adam, Adam-HD, Adam-CAM-HD with two and with three levels",
    "arXiv 2008.07277, Table 2",
    (Stage("", _trials),),
    baselines=("adam", "adam-hd"),
)
