"""The image data sets that optimizers are usually compared on."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multirate.lab.data.cache import cached_images
from multirate.lab.data.dataset import Dataset
from multirate.lab.data.sources import ImageSource

MNIST = ImageSource("mnist", "ylecun/mnist", None, "image", (1, 28, 28), (60_000, 10_000))
CIFAR10 = ImageSource("cifar10", "uoft-cs/cifar10", None, "img", (3, 32, 32), (50_000, 10_000))
SVHN = ImageSource("svhn", "ufldl-stanford/svhn", "cropped_digits", "image", (3, 32, 32), (73_257, 26_032))


@dataclass(frozen=True, eq=False)
class Images(Dataset):
    """A data set of standardised images, shape (examples, channels, height, width), float32.

    Attributes:
        black: Shape (channels,), what a black pixel became: the padding of a random crop.
    """

    black: Tensor


@functools.cache
def mnist() -> Images:
    """Handwritten digits: 60,000 and 10,000 grey images of 28 x 28 pixels.

    Raises:
        DataError: If the data are neither in the local folder nor on the hub, or not what they should be.

    Reference:
        LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998.
    """
    return _load(MNIST)


@functools.cache
def cifar10() -> Images:
    """Photographs of ten kinds of things: 50,000 and 10,000 colour images of 32 x 32 pixels.

    Raises:
        DataError: If the data are neither in the local folder nor on the hub, or not what they should be.

    Reference:
        Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    return _load(CIFAR10)


@functools.cache
def svhn() -> Images:
    """House numbers, cropped to one digit: 73,257 and 26,032 colour images of 32 x 32 pixels.

    Raises:
        DataError: If the data are neither in the local folder nor on the hub, or not what they should be.

    Reference:
        Netzer et al., Reading digits in natural images with unsupervised feature learning, 2011.
    """
    return _load(SVHN)


def _load(source: ImageSource) -> Images:
    decoded = cached_images(source)
    mean, deviation = _statistics(decoded.train_images)

    def standardised(images: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(images).float().sub_(mean[:, None, None]).div_(deviation[:, None, None])

    return Images(
        train_inputs=standardised(decoded.train_images),
        train_targets=torch.from_numpy(decoded.train_labels),
        test_inputs=standardised(decoded.test_images),
        test_targets=torch.from_numpy(decoded.test_labels),
        classes=source.classes,
        black=-mean / deviation,
    )


def _statistics(images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel over all images and pixels.

    They come from how often each of the 256 values occurs: exact, and without a copy in floating point.
    """
    values = np.arange(256)
    counts = np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])])
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    deviation = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()
