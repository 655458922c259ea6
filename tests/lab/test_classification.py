"""Epochs that end early, and reconstruction in the place of classes."""

import pytest
import torch
from torch import nn

from multirate.lab.data.dataset import Dataset
from multirate.lab.problems.classification import Classification
from multirate.lab.problems.reconstruction import Reconstruction

CPU = torch.device("cpu")


@pytest.fixture
def data():
    inputs = torch.arange(40.0).reshape(20, 1, 1, 2)
    return Dataset(inputs, torch.arange(20) % 2, inputs[:6] + 0.5, torch.arange(6) % 2, 2)


def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 2))


def epoch(problem, order, first=0):
    return [inputs[:, 0, 0, 0].tolist() for inputs, _ in problem.batches(order, torch.Generator(), first)]


def test_an_epoch_may_end_before_it_covers_the_training_set(data):
    problem = Classification(data, model, 3, CPU, steps_per_epoch=4)
    assert problem.steps_per_epoch == 4
    order = torch.Generator().manual_seed(0)
    first, second = epoch(problem, order), epoch(problem, order)
    assert [len(batch) for batch in first] == [3] * 4
    assert len({example for batch in first for example in batch}) == 12
    assert first != second
    assert epoch(problem, torch.Generator().manual_seed(0), first=3) == first[3:]


def test_an_epoch_has_no_more_steps_than_examples_allow(data):
    assert Classification(data, model, 8, CPU).steps_per_epoch == 3
    problem = Classification(data, model, 8, CPU, steps_per_epoch=50)
    assert problem.steps_per_epoch == len(epoch(problem, torch.Generator())) == 3
    with pytest.raises(ValueError, match="steps_per_epoch is 0"):
        Classification(data, model, 8, CPU, steps_per_epoch=0)


def test_reconstruction_is_the_mean_square_over_all_pixels(data):
    problem = Reconstruction(data, model, 20, CPU)
    with torch.no_grad():
        problem.model[1].weight.copy_(torch.eye(2))
        problem.model[1].bias.copy_(torch.tensor([1.0, 3.0]))
        # Every first pixel is 1 too high, every second one 3: (1² + 3²) / 2.
        assert problem.evaluate() == {"loss": pytest.approx(5.0)}
    (batch,) = problem.batches(torch.Generator(), torch.Generator())
    assert problem.loss(batch).item() == pytest.approx(5.0)
