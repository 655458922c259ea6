"""Every task and every study's optimizers take a few steps, with data made for the occasion."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from multirate.lab import task, tasks
from multirate.lab.data.images import Images
from multirate.lab.data.text import Text
from multirate.lab.models.resnet import ResNet18
from multirate.lab.problems.classification import Classification
from multirate.lab.results import Trial
from multirate.lab.studies import table3, table4
from multirate.lab.tasks import TASKS
from multirate.lab.trial import run_trial
from multirate.lab.yardstick import tasks as yardstick_tasks


def images(channels, size, examples=24):
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(examples) % 10
    inputs = torch.randn(examples, channels, size, size, generator=generator)
    return Images(inputs, targets, inputs[:12], targets[:12], 10, black=torch.full((channels,), -2.0))


def closure_cells(function):
    """Yield what a task's functions remember, and what the functions among that remember."""
    for cell in getattr(function, "__closure__", None) or ():
        yield cell
        yield from closure_cells(cell.cell_contents)


@pytest.fixture(autouse=True)
def small_data(monkeypatch):
    """A few examples of the right shape in the place of each data set."""
    text = Text(torch.arange(4500) % 65, torch.arange(600) % 65, tuple(map(chr, range(65))))
    stand_ins = {
        "mnist": images(1, 28), "cifar10": images(3, 32), "svhn": images(3, 32),
        "tiny_shakespeare": text,
    }  # fmt: skip
    modules = (task, tasks, yardstick_tasks)
    loaders = {name: {getattr(module, name, None) for module in modules} - {None} for name in stand_ins}
    for cell in (cell for each in TASKS.values() for cell in closure_cells(each.problem)):
        found = cell.cell_contents
        for name, data in stand_ins.items():
            if found in loaders[name]:
                monkeypatch.setattr(cell, "cell_contents", lambda data=data: data)
        if found == yardstick_tasks.STEPS:
            monkeypatch.setattr(cell, "cell_contents", 2)
    for name, data in stand_ins.items():
        for module in modules:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda data=data: data)


@pytest.mark.parametrize("name", [name for name in TASKS if "resnet" not in name])
def test_every_task_can_be_trained(name):
    trial = Trial(name, "adam", seed=0, epochs=1)
    outcome = run_trial(trial)
    assert not outcome.result.diverged
    assert outcome.result.steps > 0
    assert outcome.result.test_loss == pytest.approx(outcome.curves["test_loss"][-1], rel=1e-5)
    without = ("quadratic", "rosenbrock", "autoencoder")
    assert (outcome.result.test_accuracy is None) == any(word in name for word in without)


@pytest.mark.parametrize("optimizer", table3.OPTIMIZERS)
def test_the_optimizers_of_table_3_train_lenet(optimizer):
    assert run_trial(Trial("cifar10/lenet", optimizer, seed=0, epochs=2)).result.steps == 2


@pytest.mark.parametrize("optimizer", [*table4.OPTIMIZERS, "schedule-free-sgd", "dog"])
def test_the_optimizers_of_table_4_train_a_narrow_resnet(optimizer, monkeypatch):
    """The whole path of Table 4 but its width: augmentation, batch norm, weight decay, schedule."""

    def problem(device, fold):
        return Classification(images(3, 32), lambda: ResNet18(width=4), 8, device, task.crop_and_flip_cifar10)

    narrow = dataclasses.replace(TASKS["cifar10/resnet18"], problem=problem)
    monkeypatch.setattr("multirate.lab.trial.TASKS", {narrow.name: narrow})
    outcome = run_trial(Trial(narrow.name, optimizer, seed=0, epochs=4))
    assert outcome.result.steps == 12
    assert not outcome.result.diverged
    if "+step" in optimizer:
        first, last = (outcome.curves["layer_rates"]["output"][index] for index in (0, -1))
        assert last == pytest.approx(0.1 * first, rel=0.2)
