"""LeNet-5."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# The first convolution sees 32 × 32 pixels either way: digits of 28 × 28 are padded by 2 on every side.
PADDING = {28: 2, 32: 0}


class LeNet5(nn.Module):
    """Two convolutions and three fully connected layers, in today's form: rectified, max-pooled, fully connected maps.

    Args:
        channels: Channels of an image.
        size: Height and width of an image in pixels, 28 or 32.
        classes: Number of classes.

    Raises:
        ValueError: If the size is another one.

    Reference:
        LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998, section II.B.
    """

    def __init__(self, channels: int, size: int, classes: int = 10) -> None:
        super().__init__()
        if size not in PADDING:
            raise ValueError(f"size must be 28 or 32 pixels, got {size}; resize or pad the images first")
        self.conv1 = nn.Conv2d(channels, 6, kernel_size=5, padding=PADDING[size])
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores, shape (batch, classes).

        Args:
            images: Shape (batch, channels, size, size).
        """
        activations = F.max_pool2d(self.conv1(images).relu(), 2)
        activations = F.max_pool2d(self.conv2(activations).relu(), 2)
        activations = self.fc1(activations.flatten(1)).relu()
        activations = self.fc2(activations).relu()
        scores: Tensor = self.fc3(activations)
        return scores
