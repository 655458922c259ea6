"""Data sets, models and the tables that name them."""

import pytest
import torch

from multirate.lab.data.dataset import Dataset
from multirate.lab.data.digits import digits
from multirate.lab.models.feed_forward import FeedForward
from multirate.lab.optimizers.entry import OptimizerEntry
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


def test_folds_cover_the_training_set_once_and_never_touch_the_test_set():
    data = digits()
    folds = [data.fold(index) for index in range(5)]
    held_out = torch.cat([fold.test_inputs for fold in folds])
    assert held_out.shape == data.train_inputs.shape
    assert torch.equal(torch.unique(held_out, dim=0), torch.unique(data.train_inputs, dim=0))
    for fold in folds:
        assert len(fold.train_targets) + len(fold.test_targets) == len(data.train_targets)
        together = torch.cat([fold.train_inputs, fold.test_inputs])
        assert torch.equal(torch.unique(together, dim=0), torch.unique(data.train_inputs, dim=0))
        # Examples keep their labels, and every class is held out.
        where = (data.train_inputs[:, None] == fold.test_inputs[None, :5]).all(-1).int().argmax(0)
        assert torch.equal(data.train_targets[where], fold.test_targets[:5])
        assert (fold.test_targets.bincount(minlength=10) > 10).all()
    assert torch.equal(data.fold(2).test_inputs, folds[2].test_inputs)
    with pytest.raises(ValueError, match=r"fold must lie in 0\.\.4, got 5"):
        data.fold(5)


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
