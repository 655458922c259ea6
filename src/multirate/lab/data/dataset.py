"""A classification data set as plain tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

FOLDS = 5
_FOLD_SEED = 20081673


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

    def fold(self, index: int) -> Dataset:
        """Return the training set split for cross-validation: the test part is one fifth of it.

        Args:
            index: Which fifth to hold out, 0 to 4; together they cover the training set once, in a fixed random order.

        Raises:
            ValueError: If there is no such fold.
        """
        if not 0 <= index < FOLDS:
            raise ValueError(f"fold must lie in 0..{FOLDS - 1}, got {index}")
        examples = len(self.train_targets)
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(_FOLD_SEED))
        held_out = torch.zeros(examples, dtype=torch.bool)
        held_out[order[index::FOLDS]] = True
        return dataclasses.replace(
            self,
            train_inputs=self.train_inputs[~held_out],
            train_targets=self.train_targets[~held_out],
            test_inputs=self.train_inputs[held_out],
            test_targets=self.train_targets[held_out],
        )
