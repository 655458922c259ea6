"""Data sets, models and the tables that name them."""

import pytest
import torch

from multirate.lab.data import Dataset, digits
from multirate.lab.models import FeedForward
from multirate.lab.optimizers import OptimizerEntry
from multirate.lab.registry import Registry


def test_digits_are_split_once_and_for_all():
    data = digits()
    assert data.train_inputs.shape == (1437, 64)
    assert data.test_inputs.shape == (360, 64)
    assert data.train_inputs.dtype == torch.float32
    assert data.train_targets.dtype == torch.int64
    assert data.train_inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.train_inputs.std().item() == pytest.approx(1, abs=1e-5)
    # Every class is tested alike, and the split is the one that published numbers were made with.
    assert data.test_targets.bincount().tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert data.test_targets[:10].tolist() == [4, 5, 3, 2, 2, 0, 3, 8, 0, 7]


def test_a_data_set_that_does_not_fit_together_is_refused():
    inputs, targets = torch.zeros(4, 3), torch.tensor([0, 1, 2, 1])
    Dataset(inputs, targets, inputs, targets, classes=3)
    with pytest.raises(ValueError, match=r"train data.*do not fit"):
        Dataset(inputs[:3], targets, inputs, targets, classes=3)
    with pytest.raises(ValueError, match=r"test data.*0\.\.1"):
        Dataset(inputs, targets.clamp(max=1), inputs, targets, classes=2)
    with pytest.raises(ValueError, match="differ in shape"):
        Dataset(inputs, targets, inputs[:, :2], targets, classes=3)


def test_a_feed_forward_network_has_the_widths_it_was_given():
    model = FeedForward((6, 5, 4, 3))
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == {
        "hidden1.weight": (5, 6), "hidden1.bias": (5,),
        "hidden2.weight": (4, 5), "hidden2.bias": (4,),
        "output.weight": (3, 4), "output.bias": (3,),
    }  # fmt: skip
    images = torch.randn(7, 2, 3)
    first = torch.relu(model.hidden1(images.flatten(1)))
    expected = model.output(torch.relu(model.hidden2(first)))
    assert torch.equal(model(images), expected)


@pytest.mark.parametrize("widths", [(), (3,), (3, 0, 2)])
def test_impossible_widths_are_refused(widths):
    with pytest.raises(ValueError, match="widths"):
        FeedForward(widths)


def test_a_registry_refuses_doubles_and_names_that_are_no_file_names():
    entry = OptimizerEntry("some-name", "torch.optim:SGD", "", "")
    assert Registry("optimizer", [entry])["some-name"] is entry
    with pytest.raises(ValueError, match="twice"):
        Registry("optimizer", [entry, entry])
    for name in ("", "../up", "Name", "a b", "a--b", "a/"):
        with pytest.raises(ValueError, match="must match"):
            Registry("optimizer", [OptimizerEntry(name, "torch.optim:SGD", "", "")])
    with pytest.raises(KeyError, match="Did you mean 'some-name'"):
        Registry("optimizer", [entry])["somename"]
