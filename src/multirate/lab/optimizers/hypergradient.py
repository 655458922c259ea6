"""This library's optimizers: the self-tuning default, Baydin's and the paper's."""

from __future__ import annotations

from multirate.lab.optimizers.entry import OptimizerEntry
from multirate.lab.variants import Settings

_BAYDIN = "Baydin et al. 2018, arXiv 1703.04782"
_JIE = "Jie et al. 2022, arXiv 2008.07277"

_TWO_LEVELS: Settings = {"levels": ("global", "unit"), "weights": (0.8, 0.2), "weight_lr": 0.03}

HYPERGRADIENT = [
    OptimizerEntry(
        name="multirate",
        constructor="multirate:Adam",
        description="this library's default: Adam, its rates learned; nothing to choose",
        citation="multirate",
    ),
    OptimizerEntry(
        name="multirate-adamw",
        constructor="multirate:AdamW",
        description="AdamW, its rates learned; nothing to choose",
        citation="multirate",
    ),
    OptimizerEntry(
        name="multirate-sgd",
        constructor="multirate:SGD",
        description="SGD that tunes its own rates; nothing to choose",
        citation="multirate",
    ),
    OptimizerEntry(
        name="sgd-hd",
        constructor="multirate:SGDHD",
        description="SGD with one learned rate",
        citation=_BAYDIN,
        settings={"lr": 1e-2, "hyper_lr": 1e-3},
    ),
    OptimizerEntry(
        name="sgdn-hd",
        constructor="multirate:SGDNHD",
        description="SGD with Nesterov momentum and one learned rate",
        citation=_BAYDIN,
        settings={"lr": 1e-2, "momentum": 0.9, "hyper_lr": 1e-6},
    ),
    OptimizerEntry(
        name="adam-hd",
        constructor="multirate:AdamHD",
        description="Adam with one learned rate",
        citation=_BAYDIN,
        settings={"lr": 1e-3, "hyper_lr": 1e-8},
    ),
    OptimizerEntry(
        name="adam-hd-multiplicative",
        constructor="multirate:AdamHD",
        description="Adam with one learned rate that grows and shrinks by factors",
        citation=f"{_BAYDIN}, Eq. 8",
        settings={"lr": 1e-3, "hyper_lr": 2e-2, "multiplicative": True},
    ),
    OptimizerEntry(
        name="adam-cam-hd",
        constructor="multirate:AdamCAMHD",
        description="Adam with rates learned at several levels and a learned combination of them",
        citation=_JIE,
        settings={"lr": 1e-3, **_TWO_LEVELS, "hyper_lr": 1e-8},
    ),
    OptimizerEntry(
        name="adam-cam-hd-3",
        constructor="multirate:AdamCAMHD",
        description="Adam-CAM-HD with three levels",
        citation=_JIE,
        settings={
            "lr": 1e-3,
            "levels": ("global", "layer", "parameter"),
            "weights": (0.4, 0.3, 0.3),
            "hyper_lr": 1e-8,
            "weight_lr": 0.03,
        },
    ),
    OptimizerEntry(
        name="adabound-cam-hd",
        constructor="multirate:AdaBoundCAMHD",
        description="AdaBound with rates learned at several levels and combined",
        citation=f"{_JIE}, Eq. 36",
        settings={"lr": 1e-3, **_TWO_LEVELS, "hyper_lr": 1e-8},
    ),
    OptimizerEntry(
        name="sgdn-cam-hd",
        constructor="multirate:SGDNCAMHD",
        description="SGD with Nesterov momentum, rates learned at several levels and combined",
        citation=_JIE,
        settings={"lr": 1e-2, "momentum": 0.9, **_TWO_LEVELS, "hyper_lr": 1e-6},
    ),
]
