"""Figure 2 of arXiv 2008.07277: from all global to all layer-wise, with fixed and with learned weights."""

from __future__ import annotations

from collections.abc import Sequence

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study, grid
from multirate.lab.variants import Variant

TASKS = ("mnist/ffnn-100-100-100",)
RATIOS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""First weight of the layer level; the global level has the rest."""


WEIGHT_LR = 0.01
"""Step size of learned weights, the paper's."""


def variant(ratio: float, weight_lr: float) -> str:
    """Return Adam-CAM-HD at a ratio.

    Args:
        ratio: First weight of the layer level.
        weight_lr: Step size of the weights; 0 fixes them.
    """
    return str(Variant("adam-cam-hd", {"weights": (round(1 - ratio, 1), ratio), "weight_lr": weight_lr}))


def variants() -> list[str]:
    """Return Adam, and Adam-CAM-HD at every ratio with fixed and with learned weights."""
    return ["adam", *(variant(ratio, weight_lr) for ratio in RATIOS for weight_lr in (0.0, WEIGHT_LR))]


def _trials(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    return grid(request.chosen(TASKS), variants(), request.seeds or 10, request.epochs)


FIGURE2 = Study(
    "figure2",
    "the combination ratio, weights fixed or learned: a feed-forward network on MNIST",
    "arXiv 2008.07277, section 4.2 and figure 2",
    (Stage("", _trials),),
)
