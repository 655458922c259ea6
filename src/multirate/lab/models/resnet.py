"""Residual networks for images of 32 × 32 pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two normalised 3 × 3 convolutions beside a shortcut: `relu(x + f(x))`.

    The shortcut is the identity, or a normalised 1 × 1 convolution where the shape changes (option B of the paper).

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, input: Tensor) -> Tensor:
        """Return the block's maps, shape (batch, outputs, height / stride, width / stride)."""
        residual = self.norm1(self.conv1(input)).relu()
        residual = self.norm2(self.conv2(residual))
        activations: Tensor = (self.shortcut(input) + residual).relu()
        return activations


class ResNet(nn.Module):
    """A 3 × 3 stem without pooling, four stages of basic blocks, the mean over all pixels, a linear layer.

    Every stage after the first halves height and width and doubles the channels. Weights start as PyTorch's layers
    do, like those of the pytorch-cifar code base, whose sizes these are.

    Args:
        blocks: Basic blocks of each of the four stages.
        classes: Number of classes.
        channels: Channels of an image.
        width: Channels of the first stage.

    Raises:
        ValueError: If there are not four stages of at least one block, or the width is not positive.

    Reference:
        He, Zhang, Ren, Sun: Deep residual learning for image recognition, 2016, table 1, with the stem of section 4.2.
    """

    def __init__(self, blocks: Sequence[int], classes: int = 10, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks must be four positive numbers, one a stage, got {tuple(blocks)}")
        if width < 1:
            raise ValueError(f"width must be at least 1 channel, got {width}")
        self.conv1 = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.stage1 = _stage(blocks[0], width, width, stride=1)
        self.stage2 = _stage(blocks[1], width, 2 * width, stride=2)
        self.stage3 = _stage(blocks[2], 2 * width, 4 * width, stride=2)
        self.stage4 = _stage(blocks[3], 4 * width, 8 * width, stride=2)
        self.output = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores, shape (batch, classes).

        Args:
            images: Shape (batch, channels, height, width).
        """
        activations = self.norm1(self.conv1(images)).relu()
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            activations = stage(activations)
        scores: Tensor = self.output(activations.mean(dim=(2, 3)))
        return scores


class ResNet18(ResNet):
    """`ResNet` with two blocks in every stage: 11,173,962 parameters for 10 classes."""

    def __init__(self, classes: int = 10, channels: int = 3, width: int = 64) -> None:
        super().__init__((2, 2, 2, 2), classes, channels, width)


class ResNet34(ResNet):
    """`ResNet` with 3, 4, 6 and 3 blocks: 21,282,122 parameters for 10 classes."""

    def __init__(self, classes: int = 10, channels: int = 3, width: int = 64) -> None:
        super().__init__((3, 4, 6, 3), classes, channels, width)


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Chain blocks, of which the first changes the shape."""
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)))
