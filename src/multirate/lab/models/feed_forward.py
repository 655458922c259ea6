"""A feed-forward network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class FeedForward(nn.Sequential):
    """A feed-forward network with rectified hidden layers, named `hidden1`, `hidden2`, …, `output`.

    Args:
        widths: Units of every layer, input and output included: `(64, 100, 100, 10)` has two hidden layers.

    Raises:
        ValueError: If there are fewer than two widths, or one is not positive.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths must be at least two positive numbers, got {tuple(widths)}")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        *hidden, output = pairwise(widths)
        for index, (inputs, outputs) in enumerate(hidden, start=1):
            layers[f"hidden{index}"] = nn.Linear(inputs, outputs)
            layers[f"relu{index}"] = nn.ReLU()
        layers["output"] = nn.Linear(*output)
        super().__init__(layers)

    def forward(self, input: Tensor) -> Tensor:
        """Return the class scores.

        Args:
            input: Shape (batch, ...); everything after the batch dimension is flattened to `widths[0]`.
        """
        activations = input.flatten(1)
        for layer in self:
            activations = layer(activations)
        return activations
