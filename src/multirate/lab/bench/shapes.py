"""What steps are timed on: lists of parameters shaped like those of known models, without the networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from multirate.lab.registry import Registry

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = dict[str, Shape]

# Number of blocks of every stage; the width doubles from stage to stage.
RESNET18, RESNET50 = (2, 2, 2, 2), (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4


@dataclass(frozen=True)
class Case:
    """A list of parameters to time steps on.

    Attributes:
        name: What a user types.
        description: What it is shaped like.
        make: Returns names and shapes.
        by_default: Whether it is timed where no case is named.
        is_model: Whether it is shaped like a model that is trained, and the goals for models hold for it.
    """

    name: str
    description: str
    make: Callable[[], Shapes]
    by_default: bool = True
    is_model: bool = True


def elements(shapes: Shapes) -> int:
    """Return the number of elements of all tensors."""
    return sum(math.prod(shape) for shape in shapes.values())


def shrunk(shapes: Shapes, most: int = 4) -> Shapes:
    """Return as many tensors of as many dimensions, none longer than `most`: what is left of a step is overhead."""
    return {name: tuple(min(length, most) for length in shape) for name, shape in shapes.items()}


def resnet18_shapes(classes: int = 1000) -> Shapes:
    """Return ResNet-18 for images of 224 × 224 (He et al. 2016, arXiv 1512.03385): 62 tensors, 11,689,512 elements."""
    shapes = dict(_convolution("conv1", "bn1", 3, 64, 7))
    inputs = 64
    for stage, (width, blocks) in enumerate(zip(WIDTHS, RESNET18, strict=True), start=1):
        for block in range(blocks):
            shapes.update(_basic(f"layer{stage}.{block}", inputs, width))
            inputs = width
    return shapes | {"fc.weight": (classes, inputs), "fc.bias": (classes,)}


def resnet50_shapes(classes: int = 1000) -> Shapes:
    """Return ResNet-50 for images of 224 × 224 (the same paper): 161 tensors, 25,557,032 elements."""
    shapes = dict(_convolution("conv1", "bn1", 3, 64, 7))
    inputs = 64
    for stage, (width, blocks) in enumerate(zip(WIDTHS, RESNET50, strict=True), start=1):
        for block in range(blocks):
            shapes.update(_bottleneck(f"layer{stage}.{block}", inputs, width, shortcut=block == 0))
            inputs = width * EXPANSION
    return shapes | {"fc.weight": (classes, inputs), "fc.bias": (classes,)}


def gpt2_shapes(vocabulary: int = 50257, context: int = 1024, layers: int = 12, width: int = 768) -> Shapes:
    """Return GPT-2 small (Radford et al. 2019), the output tied to the tokens: 148 tensors, 124,439,808 elements."""
    shapes: Shapes = {"wte.weight": (vocabulary, width), "wpe.weight": (context, width)}
    for layer in range(layers):
        block = f"h.{layer}"
        shapes.update(_affine(f"{block}.ln_1", width))
        shapes.update(_linear(f"{block}.attn.c_attn", width, 3 * width))
        shapes.update(_linear(f"{block}.attn.c_proj", width, width))
        shapes.update(_affine(f"{block}.ln_2", width))
        shapes.update(_linear(f"{block}.mlp.c_fc", width, 4 * width))
        shapes.update(_linear(f"{block}.mlp.c_proj", 4 * width, width))
    return shapes | dict(_affine("ln_f", width))


def vit_shapes(classes: int = 1000, layers: int = 12, width: int = 768, patch: int = 16, tokens: int = 197) -> Shapes:
    """Return ViT-B/16 (Dosovitskiy et al. 2021, arXiv 2010.11929): 152 tensors, 86,567,656 elements."""
    shapes: Shapes = {"class_token": (1, 1, width), "conv_proj.weight": (width, 3, patch, patch)}
    shapes |= {"conv_proj.bias": (width,), "pos_embedding": (1, tokens, width)}
    for layer in range(layers):
        block = f"layers.{layer}"
        shapes.update(_affine(f"{block}.ln_1", width))
        shapes[f"{block}.self_attention.in_proj_weight"] = (3 * width, width)
        shapes[f"{block}.self_attention.in_proj_bias"] = (3 * width,)
        shapes.update(_linear(f"{block}.self_attention.out_proj", width, width))
        shapes.update(_affine(f"{block}.ln_2", width))
        shapes.update(_linear(f"{block}.mlp.0", width, 4 * width))
        shapes.update(_linear(f"{block}.mlp.3", 4 * width, width))
    shapes.update(_affine("ln", width))
    return shapes | dict(_linear("head", width, classes))


def flat_shapes(count: int = 1 << 25) -> Shapes:
    """Return one large tensor of one dimension, as sharded and flattened training has it: 33,554,432 elements."""
    return {"flat": (count,)}


def tiny_shapes(tensors: int = 10_000, width: int = 4) -> Shapes:
    """Return many tensors of next to no elements: weights of 4 × 4 and biases of 4, a layer a pair."""
    return {
        name: shape
        for layer in range(tensors // 2)
        for name, shape in ((f"{layer}.weight", (width, width)), (f"{layer}.bias", (width,)))
    }


def ffnn_shapes(*widths: int) -> Shapes:
    """Return a feed-forward network, such as 784-100-100-10 for MNIST: 6 tensors, 89,610 elements."""
    shapes: Shapes = {}
    for layer, (inputs, outputs) in enumerate(pairwise(widths or (784, 100, 100, 10))):
        shapes.update(_linear(str(layer), inputs, outputs))
    return shapes


CASES: Registry[Case] = Registry(
    "case",
    [
        Case("resnet18", "ResNet-18 (224 × 224 images, 1000 classes)", resnet18_shapes),
        Case("resnet50", "ResNet-50 (224 × 224 images, 1000 classes)", resnet50_shapes, by_default=False),
        Case("gpt2", "GPT-2 small", gpt2_shapes),
        Case("vit", "ViT-B/16", vit_shapes),
        Case("ffnn", "a feed-forward network 784-100-100-10", ffnn_shapes, by_default=False),
        Case("flat", "one large flat tensor", flat_shapes, is_model=False),
        Case("tiny", "ten thousand tiny tensors", tiny_shapes, is_model=False),
    ],
)


def _basic(prefix: str, inputs: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _convolution(f"{prefix}.conv1", f"{prefix}.bn1", inputs, width, 3)
    yield from _convolution(f"{prefix}.conv2", f"{prefix}.bn2", width, width, 3)
    if inputs != width:
        yield from _convolution(f"{prefix}.downsample.0", f"{prefix}.downsample.1", inputs, width, 1)


def _bottleneck(prefix: str, inputs: int, width: int, *, shortcut: bool) -> Iterator[tuple[str, Shape]]:
    outputs = width * EXPANSION
    yield from _convolution(f"{prefix}.conv1", f"{prefix}.bn1", inputs, width, 1)
    yield from _convolution(f"{prefix}.conv2", f"{prefix}.bn2", width, width, 3)
    yield from _convolution(f"{prefix}.conv3", f"{prefix}.bn3", width, outputs, 1)
    if shortcut:
        yield from _convolution(f"{prefix}.downsample.0", f"{prefix}.downsample.1", inputs, outputs, 1)


def _convolution(name: str, norm: str, inputs: int, outputs: int, kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield from _affine(norm, outputs)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _affine(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
