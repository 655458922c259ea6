"""Parameter lists, against what the literature and other packages have."""

import math

import pytest

from multirate.lab.bench.growth import SWEEPS
from multirate.lab.bench.shapes import (
    CASES,
    elements,
    gpt2_shapes,
    resnet18_shapes,
    resnet50_shapes,
    shrunk,
    tiny_shapes,
    vit_shapes,
)
from multirate.lab.models.transformer import Transformer


@pytest.mark.parametrize(
    ("name", "tensors", "count"),
    [
        ("resnet18", 62, 11_689_512),
        ("resnet50", 161, 25_557_032),
        ("gpt2", 148, 124_439_808),
        ("vit", 152, 86_567_656),
        ("ffnn", 6, 89_610),
        ("flat", 1, 33_554_432),
        ("tiny", 10_000, 100_000),
    ],
)
def test_counts_are_those_of_the_literature(name, tensors, count):
    shapes = CASES[name].make()
    assert len(shapes) == tensors
    assert elements(shapes) == count


def test_shapes_are_those_of_the_networks():
    resnet18, resnet50, gpt2, vit = resnet18_shapes(), resnet50_shapes(), gpt2_shapes(), vit_shapes()
    assert resnet18["conv1.weight"] == resnet50["conv1.weight"] == (64, 3, 7, 7)
    assert "layer1.0.downsample.0.weight" not in resnet18
    assert resnet18["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert resnet18["fc.weight"] == (1000, 512)
    assert resnet50["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert resnet50["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    assert resnet50["fc.weight"] == (1000, 2048)
    assert gpt2["wte.weight"] == (50257, 768)
    assert gpt2["h.11.attn.c_attn.weight"] == (2304, 768)
    assert vit["conv_proj.weight"] == (768, 3, 16, 16)
    assert vit["pos_embedding"] == (1, 197, 768)


def test_the_gpt_has_the_tensors_of_a_network():
    network = Transformer(vocabulary=50, context=8, layers=2, heads=2, width=12)
    own = sorted(tuple(parameter.shape) for parameter in network.parameters())
    assert sorted(gpt2_shapes(vocabulary=50, context=8, layers=2, width=12).values()) == own


def test_shrunk_parameters_are_as_many_and_of_as_many_dimensions():
    shapes = resnet18_shapes()
    small = shrunk(shapes)
    assert list(small) == list(shapes)
    assert small["conv1.weight"] == (4, 3, 4, 4)
    assert max(math.prod(shape) for shape in small.values()) <= 4**4
    assert shrunk(tiny_shapes()) == tiny_shapes()


def test_sweeps_grow_in_what_they_count():
    for sweep in SWEEPS.values():
        assert list(sweep.sizes) == sorted(set(sweep.sizes))
    assert [elements(SWEEPS["parameters"].make(size)) for size in (16, 64)] == [16, 64]
    assert [len(SWEEPS["tensors"].make(size)) for size in (1, 4)] == [1, 4]
