"""Reconstruction of images by an autoencoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from multirate.lab.problems.base import Batch
from multirate.lab.problems.classification import EVALUATION_BATCH, Classification


class Reconstruction(Classification):
    """Mean squared error of a model that is to return its input, flattened; the classes of the data are not used."""

    def loss(self, batch: Batch) -> Tensor:
        inputs, _ = batch
        return F.mse_loss(self.forward(inputs), inputs.flatten(1))

    def evaluate(self) -> dict[str, float]:
        """Return `loss`, the mean over all pixels of the test images."""
        total = torch.zeros((), dtype=torch.float64)
        for inputs in self._test_inputs.split(EVALUATION_BATCH):
            total += F.mse_loss(self.forward(inputs).float(), inputs.flatten(1), reduction="sum").cpu()
        return {"loss": float(total) / self._test_inputs.numel()}
