"""Image classification."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multirate.lab.data.dataset import Dataset
from multirate.lab.problems.base import Batch, Problem

EVALUATION_BATCH = 1000


class Classification(Problem):
    """Cross-entropy on a data set held in memory.

    Args:
        data: The data set; its test part is what `evaluate` measures.
        model: Makes a freshly initialised model from torch's random generator.
        batch_size: Examples a step; the last, smaller batch of an epoch is used too.
        device: Where to train.
        augment: Changes a batch of training images at random, given a generator on the CPU.
        steps_per_epoch: Steps after which an epoch ends before it covers the training set; its batches are drawn anew
            every time.

    Raises:
        ValueError: If an epoch has no step.
    """

    def __init__(
        self,
        data: Dataset,
        model: Callable[[], nn.Module],
        batch_size: int,
        device: torch.device,
        augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch is {steps_per_epoch}; it must be at least 1")
        self.device = device
        self.model = model().to(device)
        self.forward = self.model
        self._train_inputs, self._train_targets = data.train_inputs.to(device), data.train_targets.to(device)
        self._test_inputs, self._test_targets = data.test_inputs.to(device), data.test_targets.to(device)
        self._batch_size = batch_size
        self._augment = augment
        steps = math.ceil(len(data.train_targets) / batch_size)
        self.steps_per_epoch = steps if steps_per_epoch is None else min(steps, steps_per_epoch)

    def batches(self, order: torch.Generator, noise: torch.Generator, first: int = 0) -> Iterator[Batch]:
        permutation = torch.randperm(len(self._train_targets), generator=order).to(self.device)
        for indices in permutation.split(self._batch_size)[first : self.steps_per_epoch]:
            inputs = self._train_inputs[indices]
            yield self._augment(inputs, noise) if self._augment else inputs, self._train_targets[indices]

    def loss(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        return F.cross_entropy(self.forward(inputs), targets)

    def evaluate(self) -> dict[str, float]:
        loss, right = torch.zeros((), dtype=torch.float64), 0
        for inputs, targets in zip(
            self._test_inputs.split(EVALUATION_BATCH), self._test_targets.split(EVALUATION_BATCH), strict=True
        ):
            scores = self.forward(inputs).float()
            loss += F.cross_entropy(scores, targets, reduction="sum").cpu()
            right += int((scores.argmax(dim=1) == targets).sum())
        return {"loss": float(loss) / len(self._test_targets), "accuracy": right / len(self._test_targets)}
