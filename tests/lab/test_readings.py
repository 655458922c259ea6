"""The readings of Eq. 35."""

import pytest
import torch

import multirate
from multirate.lab.models.feed_forward import FeedForward
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.readings import apply_reading

SETTINGS = {"levels": ("global", "layer", "unit", "parameter"), "hyper_lr": 1e-3, "lr": 0.1}


@pytest.fixture
def parameters():
    return list(FeedForward((4, 3, 2)).named_parameters())


def test_scaled_multiplies_by_the_number_of_nodes(parameters):
    settings = apply_reading(SETTINGS, parameters, "scaled")
    optimizer = multirate.AdamCAMHD(
        FeedForward((4, 3, 2)).named_parameters(), levels=SETTINGS["levels"], weights=(0.25,) * 4
    )
    nodes = {
        level: 1 if isinstance(rates, torch.Tensor) else sum(rate.numel() for rate in rates.values())
        for level, rates in optimizer.rates().items()
    }
    assert nodes == {"global": 1, "layer": 2, "unit": 5, "parameter": 23}
    assert settings["hyper_lr"] == {level: pytest.approx(1e-3 * count) for level, count in nodes.items()}
    assert settings["lr"] == 0.1


def test_sums_and_means_differ_in_the_reduction_alone(parameters):
    assert apply_reading(SETTINGS, parameters, "sums") == SETTINGS
    assert apply_reading(SETTINGS, parameters, "means") == {**SETTINGS, "reduction": "mean"}


def test_unknown_readings_and_levels_are_refused(parameters):
    with pytest.raises(ValueError, match="means, sums, scaled, got 'all'"):
        apply_reading(SETTINGS, parameters, "all")
    with pytest.raises(ValueError, match="cannot count the nodes of level 'gate'"):
        apply_reading({**SETTINGS, "levels": ("global", "gate")}, parameters, "scaled")


@pytest.mark.parametrize("reading", ["means", "sums", "scaled"])
def test_an_entry_builds_with_every_reading(parameters, reading):
    settings = {**OPTIMIZERS["adam-cam-hd-3"].settings, "reading": reading}
    optimizer = OPTIMIZERS["adam-cam-hd-3"].build(parameters, settings)
    assert list(optimizer.rates()) == ["global", "layer", "parameter"]
