"""The optimizers that an experiment can name: this library's and other people's, in one table."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from multirate.lab.readings import apply_reading
from multirate.lab.registry import Registry
from multirate.lab.variants import Settings


@dataclass(frozen=True)
class OptimizerEntry:
    """One line of the table of optimizers.

    Attributes:
        name: What a user types.
        constructor: `module:class`. A string, so that listing the table imports nobody's package.
        description: One line.
        citation: Where the method comes from.
        settings: Keyword arguments of the constructor.
        extra: The extra of this package that installs the constructor's package, if one is needed.
    """

    name: str
    constructor: str
    description: str
    citation: str
    settings: Settings = field(default_factory=dict)
    extra: str | None = None

    @property
    def package(self) -> str:
        """The package that the constructor comes from."""
        return self.constructor.partition(":")[0].partition(".")[0]

    @property
    def installed(self) -> bool:
        """Whether that package is there."""
        return importlib.util.find_spec(self.package) is not None

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]], settings: Settings) -> torch.optim.Optimizer:
        """Construct the optimizer.

        Args:
            parameters: Names and parameters, as from `model.named_parameters()`.
            settings: Keyword arguments; nothing is added to them.
        """
        module, _, attribute = self.constructor.partition(":")
        constructor: Any = getattr(importlib.import_module(module), attribute)
        named = list(parameters)
        options: dict[str, Any] = dict(settings)
        if "reading" in options:
            options = apply_reading(options, named, options.pop("reading"))
        optimizer: torch.optim.Optimizer = constructor(named, **options)
        return optimizer


_ADAM = "Kingma & Ba 2015, arXiv 1412.6980"
_NESTEROV = "Nesterov 1983; Sutskever et al. 2013"
_BAYDIN = "Baydin et al. 2018, arXiv 1703.04782"
_JIE = "Jie et al. 2022, arXiv 2008.07277"

OPTIMIZERS: Registry[OptimizerEntry] = Registry(
    "optimizer",
    [
        OptimizerEntry(
            name="multirate",
            constructor="multirate:Adam",
            description="this library's default: Adam, its rates learned; nothing to choose",
            citation="multirate",
        ),
        OptimizerEntry(
            name="adam",
            constructor="torch.optim:Adam",
            description="Adam at a fixed rate",
            citation=_ADAM,
            settings={"lr": 1e-3, "fused": True},
        ),
        OptimizerEntry(
            name="adamw",
            constructor="torch.optim:AdamW",
            description="Adam with decoupled weight decay, at a fixed rate",
            citation="Loshchilov & Hutter 2019, arXiv 1711.05101",
            settings={"lr": 1e-3, "weight_decay": 1e-2},
        ),
        OptimizerEntry(
            name="adam-hd",
            constructor="multirate:AdamHD",
            description="Adam with one learned rate",
            citation=_BAYDIN,
            settings={"lr": 1e-3, "hyper_lr": 1e-8},
        ),
        OptimizerEntry(
            name="adam-cam-hd",
            constructor="multirate:AdamCAMHD",
            description="Adam with rates learned at several levels and a learned combination of them",
            citation=_JIE,
            settings={
                "lr": 1e-3,
                "levels": ("global", "unit"),
                "weights": (0.8, 0.2),
                "hyper_lr": 1e-8,
                "weight_lr": 0.03,
            },
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
            name="sgdn",
            constructor="torch.optim:SGD",
            description="SGD with Nesterov momentum, at a fixed rate",
            citation=_NESTEROV,
            settings={"lr": 1e-2, "momentum": 0.9, "nesterov": True},
        ),
        OptimizerEntry(
            name="sgdn-hd",
            constructor="multirate:SGDNHD",
            description="SGD with Nesterov momentum and one learned rate",
            citation=_BAYDIN,
            settings={"lr": 1e-2, "momentum": 0.9, "hyper_lr": 1e-6},
        ),
        OptimizerEntry(
            name="sgdn-cam-hd",
            constructor="multirate:SGDNCAMHD",
            description="SGD with Nesterov momentum, rates learned at several levels and combined",
            citation=_JIE,
            settings={
                "lr": 1e-2,
                "momentum": 0.9,
                "levels": ("global", "unit"),
                "weights": (0.8, 0.2),
                "hyper_lr": 1e-6,
                "weight_lr": 0.03,
            },
        ),
        OptimizerEntry(
            name="prodigy",
            constructor="prodigyopt:Prodigy",
            description="Adam with a rate from the distance travelled",
            citation="Mishchenko & Defazio 2024, arXiv 2306.06101",
            settings={"lr": 1.0},
            extra="bench",
        ),
        OptimizerEntry(
            name="schedule-free",
            constructor="schedulefree:AdamWScheduleFree",
            description="AdamW on averaged iterates in place of a schedule",
            citation="Defazio et al. 2024, arXiv 2405.15682",
            settings={"lr": 2.5e-3},
            extra="bench",
        ),
    ],
)
