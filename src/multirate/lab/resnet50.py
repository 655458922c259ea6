"""The parameter shapes of ResNet-50 (He et al. 2016, arXiv 1512.03385), without the network."""

from __future__ import annotations

from collections.abc import Iterator

Shape = tuple[int, ...]

# Width of the bottleneck, and number of blocks, of every stage.
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
EXPANSION = 4


def resnet50_shapes(classes: int = 1000) -> dict[str, Shape]:
    """Return the names and shapes of the parameters: 161 tensors, 25,557,032 elements for 1000 classes."""
    shapes = dict(_convolution("conv1", "bn1", 3, 64, 7))
    inputs = 64
    for stage, (width, blocks) in enumerate(STAGES, start=1):
        for block in range(blocks):
            shapes.update(_bottleneck(f"layer{stage}.{block}", inputs, width, shortcut=block == 0))
            inputs = width * EXPANSION
    return shapes | {"fc.weight": (classes, inputs), "fc.bias": (classes,)}


def _bottleneck(prefix: str, inputs: int, width: int, *, shortcut: bool) -> Iterator[tuple[str, Shape]]:
    outputs = width * EXPANSION
    yield from _convolution(f"{prefix}.conv1", f"{prefix}.bn1", inputs, width, 1)
    yield from _convolution(f"{prefix}.conv2", f"{prefix}.bn2", width, width, 3)
    yield from _convolution(f"{prefix}.conv3", f"{prefix}.bn3", width, outputs, 1)
    if shortcut:
        yield from _convolution(f"{prefix}.downsample.0", f"{prefix}.downsample.1", inputs, outputs, 1)


def _convolution(name: str, norm: str, inputs: int, outputs: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield f"{norm}.weight", (outputs,)
    yield f"{norm}.bias", (outputs,)
