"""Figures that papers report, to stand beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Published:
    """A test accuracy as a paper prints it.

    Attributes:
        mean: Per cent.
        standard_error: Per cent, over `count` runs.
        count: Number of runs.
    """

    mean: float
    standard_error: float
    count: int = 10


Cells: TypeAlias = Mapping[tuple[str, str], Published]
"""By task and optimizer."""


def _table(tasks: tuple[str, ...], rows: Mapping[str, tuple[tuple[float, float], ...]]) -> Cells:
    return {
        (task, optimizer): Published(*figures)
        for optimizer, cells in rows.items()
        for task, figures in zip(tasks, cells, strict=True)
    }


_TABLE_2 = _table(
    ("mnist/ffnn-100-100", "mnist/ffnn-1000-100", "mnist/ffnn-1000-1000"),
    {
        "adam-cam-hd-3": ((97.91, 0.07), (97.92, 0.15), (98.29, 0.07)),
        "adam-cam-hd": ((98.12, 0.06), (98.09, 0.06), (98.39, 0.04)),
        "adam-hd": ((97.86, 0.07), (97.19, 0.26), (97.83, 0.12)),
        "adam": ((97.93, 0.09), (97.48, 0.14), (97.49, 0.11)),
    },
)

PUBLISHED: Mapping[str, Cells] = {
    "table2": _TABLE_2,
    # The same figures: which reading of Eq. 35 leads to them is the question.
    "readings": {cell: figure for cell, figure in _TABLE_2.items() if cell[1] != "adam-hd"},
    "table3": _table(
        ("mnist/lenet", "cifar10/lenet", "svhn/lenet"),
        {
            "adam-cam-hd": ((98.93, 0.07), (65.55, 0.18), (87.58, 0.37)),
            "adam-hd": ((98.83, 0.05), (63.30, 0.66), (86.94, 0.13)),
            "adam-l4": ((99.19, 0.05), (63.76, 0.26), (85.44, 0.42)),
            "adabound": ((99.11, 0.05), (64.06, 0.36), (87.22, 0.14)),
            "radam": ((98.94, 0.06), (63.91, 0.34), (87.31, 0.41)),
            "adam": ((98.89, 0.05), (63.88, 0.45), (86.82, 0.16)),
        },
    ),
    "table4": _table(
        ("cifar10/resnet18", "cifar10/resnet34"),
        {
            "adam": ((87.03, 0.15), (87.95, 0.22)),
            "adam-hd": ((87.26, 0.35), (88.48, 0.48)),
            "adam-cam-hd": ((90.31, 0.25), (90.28, 0.09)),
            "adabound": ((90.29, 0.15), (90.15, 0.30)),
            "adabound-cam-hd": ((90.49, 0.31), (91.12, 0.23)),
            "sgdn+step": ((93.04, 0.21), (92.93, 0.29)),
            "sgdn-cam-hd+step": ((93.35, 0.08), (93.47, 0.23)),
        },
    ),
}
"""Test accuracies of arXiv 2008.07277, by the name of the study."""

FINAL_UNIT_WEIGHT: Mapping[tuple[str, str], float] = {
    ("mnist/lenet", "sgdn-cam-hd"): 0.388,
    ("mnist/lenet", "adam-cam-hd"): 0.211,
    ("cifar10/lenet", "adam-cam-hd"): 0.188,
    ("svhn/lenet", "adam-cam-hd"): 0.195,
}
"""Weight of the filter level after training, from 0.200, by task and optimizer: arXiv 2008.07277, section 5.1."""

EARLY_EPOCHS = 40
EARLY_ACCURACY = 90.0
"""What Adam-CAM-HD reaches on the ResNets by that epoch, about, in per cent: arXiv 2008.07277, on its Table 4."""

BAYDIN_TEST_LOSS: Mapping[tuple[str, str], float] = {
    ("mnist/logistic", "sgd"): 0.37375,
    ("mnist/logistic", "sgd-hd"): 0.28778,
    ("mnist/logistic", "sgdn"): 0.28455,
    ("mnist/logistic", "sgdn-hd"): 0.27186,
    ("mnist/logistic", "adam"): 0.27187,
    ("mnist/logistic", "adam-hd"): 0.27233,
    ("mnist/mlp", "sgd"): 0.14894,
    ("mnist/mlp", "sgd-hd"): 0.09684,
    ("mnist/mlp", "sgdn"): 0.06143,
    ("mnist/mlp", "sgdn-hd"): 0.05995,
    ("mnist/mlp", "adam"): 0.06276,
}
"""Last validation loss of the single runs that the authors of arXiv 1703.04782 keep beside their code."""
