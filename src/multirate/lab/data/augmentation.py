"""Random changes to training images that leave their class as it is."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 4


def crop_and_flip(images: Tensor, generator: torch.Generator, padding_value: Tensor | float = 0.0) -> Tensor:
    """Shift each image by up to four pixels each way and mirror it with probability 1/2.

    That is a random crop of the size of the image, out of the image with a margin of four pixels, and a random
    horizontal flip. The usual recipe pads before it standardises, so that its margin is black: give what black
    became in standardised images (`Images.black`) as `padding_value` to do the same. A margin of 0 is the mean
    colour instead.

    Args:
        images: Shape (images, channels, height, width), on any device.
        generator: A generator on the CPU: every device sees the same crops.
        padding_value: The margin, one number or shape (channels,).

    Reference:
        He, Zhang, Ren and Sun, Deep residual learning for image recognition, 2016, section 4.2.
    """
    count, channels, height, width = images.shape
    device = images.device
    offsets = torch.randint(2 * MARGIN + 1, (2, count), generator=generator)
    flips = torch.randint(2, (count,), generator=generator).bool()
    columns = torch.where(flips[:, None], torch.arange(width - 1, -1, -1), torch.arange(width)) + offsets[1, :, None]
    rows = torch.arange(height) + offsets[0, :, None]
    places = (rows[:, :, None] * (width + 2 * MARGIN) + columns[:, None, :]).flatten(1).to(device)

    padded = images.new_empty(count, channels, height + 2 * MARGIN, width + 2 * MARGIN)
    padded.copy_(torch.as_tensor(padding_value, dtype=images.dtype, device=device).view(-1, 1, 1).expand_as(padded[0]))
    padded[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN] = images
    return padded.flatten(2).gather(2, places[:, None].expand(-1, channels, -1)).view_as(images)
