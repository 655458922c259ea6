"""What is learned: a data set, a model and the protocol that every optimizer is held to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from multirate.lab.data import Dataset, digits
from multirate.lab.models import FeedForward
from multirate.lab.optimizers import Settings
from multirate.lab.registry import Registry


@dataclass(frozen=True)
class Task:
    """A classification task and its protocol.

    Attributes:
        name: `data/model`.
        description: One line.
        data: Loads the data set.
        model: Makes a freshly initialised model from torch's random generator.
        batch_size: Examples a step; the last, smaller batch of an epoch is used too.
        epochs: Passes over the training set unless told otherwise.
        settings: Optimizer settings that belong to this task's protocol, by optimizer name. They go over the
            optimizer's own defaults.
    """

    name: str
    description: str
    data: Callable[[], Dataset]
    model: Callable[[], nn.Module]
    batch_size: int
    epochs: int
    settings: Mapping[str, Settings] = field(default_factory=dict)


TASKS: Registry[Task] = Registry(
    "task",
    [
        Task(
            name="digits/ffnn",
            description="8x8 handwritten digits, a feed-forward network 64-100-100-10",
            data=digits,
            model=functools.partial(FeedForward, (64, 100, 100, 10)),
            batch_size=32,
            epochs=30,
            # The feed-forward protocol of arXiv 2008.07277, section 4.1.
            settings={
                "adam-hd": {"hyper_lr": 1e-7},
                "adam-cam-hd": {
                    "levels": ("global", "layer"),
                    "weights": (0.5, 0.5),
                    "hyper_lr": 1e-7,
                    "weight_lr": 0.01,
                },
            },
        ),
    ],
)
