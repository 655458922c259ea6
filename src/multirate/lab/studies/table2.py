"""Table 2 of arXiv 2008.07277: feed-forward networks on MNIST, with all three readings of Eq. 35."""

from __future__ import annotations

from collections.abc import Sequence

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study, grid

TASKS = ("mnist/ffnn-100-100", "mnist/ffnn-1000-100", "mnist/ffnn-1000-1000")
OPTIMIZERS = ("adam", "adam-hd", "adam-cam-hd", "adam-cam-hd-3")
OTHER_READINGS = tuple(
    f"{optimizer}:reading={reading}"
    for reading in ("scaled", "means")
    for optimizer in ("adam-cam-hd", "adam-cam-hd-3")
)


def _trials(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    tasks, seeds = request.chosen(TASKS), request.seeds or 10
    # The table itself comes first: it is of use without the other readings.
    return [
        trial for optimizers in (OPTIMIZERS, OTHER_READINGS) for trial in grid(tasks, optimizers, seeds, request.epochs)
    ]


TABLE2 = Study(
    "table2",
    "feed-forward networks on MNIST: Adam, Adam-HD, Adam-CAM-HD with two and three levels, three readings of Eq. 35",
    "arXiv 2008.07277, Table 2",
    (Stage("", _trials),),
)
