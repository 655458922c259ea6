"""Data sets as plain tensors, always split the same way."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

SPLIT_SEED = 20220813


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set in memory.

    Attributes:
        train_inputs: Shape (examples, ...), floating point.
        train_targets: Shape (examples,), class indices.
        test_inputs: Like `train_inputs`, never trained on.
        test_targets: Like `train_targets`.
        classes: Number of classes.

    Raises:
        ValueError: If the shapes or the class indices do not fit together.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int

    def __post_init__(self) -> None:
        for part, inputs, targets in (
            ("train", self.train_inputs, self.train_targets),
            ("test", self.test_inputs, self.test_targets),
        ):
            if targets.ndim != 1 or len(inputs) != len(targets) or len(targets) == 0:
                raise ValueError(f"{part} data: {tuple(inputs.shape)} inputs do not fit {tuple(targets.shape)} targets")
            if int(targets.min()) < 0 or int(targets.max()) >= self.classes:
                raise ValueError(f"{part} data: targets must lie in 0..{self.classes - 1}")
        if self.train_inputs.shape[1:] != self.test_inputs.shape[1:]:
            raise ValueError("train and test inputs differ in shape")


@functools.cache
def digits() -> Dataset:
    """The 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn; a fifth is the test set.

    Pixels are standardised together, by the mean and deviation of the training set: most corner pixels are
    always zero, so that a deviation of their own would blow up the few that are not.
    """
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.2, random_state=SPLIT_SEED, stratify=labels)
    train_inputs, test_inputs = (torch.as_tensor(part, dtype=torch.float32) for part in parts[:2])
    train_targets, test_targets = (torch.as_tensor(part, dtype=torch.int64) for part in parts[2:])
    mean, deviation = train_inputs.mean(), train_inputs.std()
    return Dataset(
        train_inputs=(train_inputs - mean) / deviation,
        train_targets=train_targets,
        test_inputs=(test_inputs - mean) / deviation,
        test_targets=test_targets,
        classes=10,
    )
