"""Every task and every study's optimizers take a few steps, with data made for the occasion."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from multirate.lab import tasks
from multirate.lab.data.images import Images
from multirate.lab.data.text import Text
from multirate.lab.models.resnet import ResNet18
from multirate.lab.problems.classification import Classification
from multirate.lab.results import Trial
from multirate.lab.studies import table3, table4
from multirate.lab.tasks import TASKS
from multirate.lab.trial import run_trial


def images(channels, size, examples=24):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(examples) % 10
    inputs = torch.randn(examples, channels, size, size, generator=generator)
    return Images(inputs, targets, inputs[:12], targets[:12], 10, black=torch.full((channels,), -2.0))


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    """A few examples of the right shape in the place of each data set."""
    stand_ins = {"mnist": images(1, 28), "cifar10": images(3, 32), "svhn": images(3, 32)}
    for name, data in stand_ins.items():
        loader = getattr(tasks, name)
        for task in TASKS.values():
            for cell in task.problem.__closure__ or ():
                if cell.cell_contents is loader:
                    monkeypatch.setattr(cell, "cell_contents", lambda data=data: data)
        monkeypatch.setattr(tasks, name, lambda data=data: data)
    text = Text(torch.arange(4500) % 65, torch.arange(600) % 65, tuple(map(chr, range(65))))
    monkeypatch.setattr(tasks, "tiny_shakespeare", lambda: text)


@pytest.mark.parametrize("name", [name for name in TASKS if "resnet" not in name])
def test_every_task_can_be_trained(name):
    trial = Trial(name, "adam", seed=0, epochs=1)
    outcome = run_trial(trial)
    assert not outcome.result.diverged
    assert outcome.result.steps > 0
    assert outcome.result.test_loss == pytest.approx(outcome.curves["test_loss"][-1], rel=1e-5)
    assert (outcome.result.test_accuracy is None) == name.startswith(("quadratic", "rosenbrock"))


@pytest.mark.parametrize("optimizer", table3.OPTIMIZERS)
def test_the_optimizers_of_table_3_train_lenet(optimizer):
    assert run_trial(Trial("cifar10/lenet", optimizer, seed=0, epochs=2)).result.steps == 2


@pytest.mark.parametrize("optimizer", [*table4.OPTIMIZERS, "schedule-free-sgd", "dog"])
def test_the_optimizers_of_table_4_train_a_narrow_resnet(optimizer, monkeypatch):
    """The whole path of Table 4 but its width: augmentation, batch norm, weight decay, schedule."""

    def problem(device, fold):
        return Classification(images(3, 32), lambda: ResNet18(width=4), 8, device, tasks._crop_and_flip)

    task = dataclasses.replace(TASKS["cifar10/resnet18"], problem=problem)
    monkeypatch.setattr("multirate.lab.trial.TASKS", {task.name: task})
    outcome = run_trial(Trial(task.name, optimizer, seed=0, epochs=4))
    assert outcome.result.steps == 12
    assert not outcome.result.diverged
    if "+step" in optimizer:
        first, last = (outcome.curves["layer_rates"]["output"][index] for index in (0, -1))
        assert last == pytest.approx(0.1 * first, rel=0.2)
