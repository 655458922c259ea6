"""Which of the three readings of Eq. 35 of arXiv 2008.07277 reproduces its Table 2?"""

from __future__ import annotations

from collections.abc import Sequence

from multirate.lab.readings import DEFAULT_READING, READINGS
from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies import table2
from multirate.lab.studies.base import Request, Stage, Study, grid
from multirate.lab.variants import Variant


def variant(optimizer: str, reading: str) -> str:
    """Return an optimizer at a reading; at the default it has its plain name, so that its trials are those of Table 2.

    Args:
        optimizer: Name in the table of optimizers.
        reading: One of `READINGS`.
    """
    return str(Variant(optimizer, {} if reading == DEFAULT_READING else {"reading": reading}))


OPTIMIZERS = (
    "adam",
    *(variant(optimizer, reading) for optimizer in ("adam-cam-hd", "adam-cam-hd-3") for reading in READINGS),
)


def _trials(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    return grid(request.chosen(table2.TASKS), OPTIMIZERS, request.seeds or 3, request.epochs)


READINGS_STUDY = Study(
    "readings",
    "the networks of Table 2 with each reading of Eq. 35: means, sums with one rate, sums with scaled rates",
    "arXiv 2008.07277, Eqs. 35 and 39",
    (Stage("", _trials),),
)
