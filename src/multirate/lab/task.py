"""What a task is, and how the usual kinds are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from multirate.lab.data.augmentation import crop_and_flip
from multirate.lab.data.dataset import Dataset
from multirate.lab.data.images import cifar10
from multirate.lab.data.text import Text
from multirate.lab.problems.base import Problem
from multirate.lab.problems.classification import Classification
from multirate.lab.problems.language import Language
from multirate.lab.variants import Settings

MakeProblem: TypeAlias = Callable[[torch.device, "int | None"], Problem]


@dataclass(frozen=True)
class Task:
    """A task and its protocol.

    Attributes:
        name: `data/model`.
        description: One line.
        problem: Makes a fresh problem on a device; with a fold, one that holds out that fifth of the training set.
        epochs: Passes over the training set unless told otherwise.
        batch_size: Examples a step.
        settings: Optimizer settings that belong to this task's protocol, by optimizer name. They go over the
            optimizer's own defaults.
    """

    name: str
    description: str
    problem: MakeProblem
    epochs: int
    batch_size: int
    settings: Mapping[str, Settings] = field(default_factory=dict)


def classification(
    data: Callable[[], Dataset],
    model: Callable[[], nn.Module],
    batch_size: int,
    augment: Callable[..., Any] | None = None,
    steps_per_epoch: int | None = None,
) -> MakeProblem:
    """Return what makes a classification problem."""

    def make(device: torch.device, fold: int | None) -> Problem:
        dataset = data() if fold is None else data().fold(fold)
        return Classification(dataset, model, batch_size, device, augment, steps_per_epoch)

    return make


def language(
    text: Callable[[], Text],
    model: Callable[[int], nn.Module],
    batch_size: int,
    steps_per_epoch: int | None = None,
    context: int = 64,
) -> MakeProblem:
    """Return what makes a problem of predicting the next character."""

    def make(device: torch.device) -> Problem:
        return Language(text(), model, batch_size, context, device, steps_per_epoch)

    return whole(make)


def whole(make: Callable[[torch.device], Problem]) -> MakeProblem:
    """Refuse folds where there is no training set to divide into them."""

    def made(device: torch.device, fold: int | None) -> Problem:
        if fold is not None:
            raise ValueError("cross-validation needs a classification task")
        return make(device)

    return made


def crop_and_flip_cifar10(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Crop and flip images of CIFAR-10 at random, black around the edges."""
    return crop_and_flip(images, generator, cifar10().black)
