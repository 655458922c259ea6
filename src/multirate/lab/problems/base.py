"""What every training problem offers to the loop that trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Batch: TypeAlias = tuple[Tensor, ...]


class Problem(ABC):
    """A model, the batches it is trained on, their loss, and the evaluation.

    Attributes:
        model: What is trained; freshly initialised from torch's random generator.
        forward: Runs the model. It is the model itself until the loop puts a compiled one in its place.
        device: Where model and batches live.
        steps_per_epoch: Batches that `batches` yields, from the first one on.
    """

    model: nn.Module
    forward: Callable[..., Any]
    device: torch.device
    steps_per_epoch: int

    @abstractmethod
    def batches(self, order: torch.Generator, noise: torch.Generator, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch.

        Args:
            order: A CPU generator that decides which examples form which batch; all draws from it are made
                before the first batch, so that an epoch can be entered again in its middle.
            noise: A CPU generator for everything drawn per batch (augmentation, noise); none of its draws are made
                for batches left out.
            first: How many batches to leave out at the start.
        """

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the differentiable mean loss of a batch, a scalar."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Return `loss`, and where it has a meaning `accuracy` (0 to 1), on what is never trained on.

        The model is in evaluation mode, and gradients are off, when the loop calls it.
        """
