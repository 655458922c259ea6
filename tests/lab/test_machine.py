"""Options of the machine do what they say: a compiled model, and images with their channels last."""

from __future__ import annotations

import dataclasses
import os
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from multirate.lab.data.dataset import Dataset
from multirate.lab.machine import Machine
from multirate.lab.models.lenet import LeNet5
from multirate.lab.problems.classification import Classification
from multirate.lab.results import Trial
from multirate.lab.tasks import TASKS
from multirate.lab.trial import Circumstances, Signals, StoppedError, run_trial

# Torch's own compiler uses what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

COMPILED = Machine(device="cpu", compile=True)
CHANNELS_LAST = Machine(device="cpu", channels_last=True)


@pytest.fixture
def compiler():
    """torch.compile needs a C++ compiler for the CPU; where tests are run for everyone there must be one."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        assert not os.environ.get("CI"), "no C++ compiler: --compile would go untested"
        pytest.skip("no C++ compiler")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def without_times(curves):
    return {name: curve for name, curve in curves.items() if name != "epoch_seconds"}


def test_a_compiled_model_is_trained_and_gives_what_the_plain_one_gives(compiler):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=2)
    plain = run_trial(trial, Circumstances(machine=Machine(device="cpu")))
    assert not counters["inductor"]
    compiled = run_trial(trial, Circumstances(machine=COMPILED))
    # A graph each for training and evaluating, and nothing that was left to the interpreter.
    assert counters["stats"]["unique_graphs"] >= 2
    assert not counters["graph_break"]
    assert counters["inductor"]
    assert compiled.result.machine["compile"] is True
    assert compiled.result.test_loss == pytest.approx(plain.result.test_loss, rel=1e-3)
    assert compiled.curves["train_loss"] == pytest.approx(plain.curves["train_loss"], rel=1e-3)
    # Compiling is told apart from training, in runs too that are so short that every step is written down.
    assert compiled.result.preparation_seconds > 0.1 > plain.result.preparation_seconds


def test_a_compiled_run_that_was_stopped_goes_on_to_the_same_numbers(compiler, tmp_path):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=2)
    whole = run_trial(trial, Circumstances(machine=COMPILED))
    steps = iter(range(60))
    stopping = Signals(should_stop=lambda: next(steps) == 59)
    with pytest.raises(StoppedError):
        run_trial(trial, Circumstances(machine=COMPILED, checkpoints=tmp_path), stopping)
    torch._dynamo.reset()
    counters.clear()
    rest = run_trial(trial, Circumstances(machine=COMPILED, checkpoints=tmp_path))
    assert counters["stats"]["unique_graphs"] >= 2
    assert without_times(rest.curves) == without_times(whole.curves)


SEEN = {"weight": set(), "output": set()}


def note(module, arguments, output):
    if not module.training:
        # A run is first evaluated as it was made.
        return
    SEEN["weight"].add(channels_are_last(module.weight))
    SEEN["output"].add(channels_are_last(output))


def channels_are_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


class Watched(LeNet5):
    """Notes in which order its convolutions have their weights and what they make of an image."""

    def __init__(self):
        super().__init__(channels=3, size=32)
        for convolution in (self.conv1, self.conv2):
            convolution.register_forward_hook(note)


@pytest.fixture
def lenet(monkeypatch):
    """A task on few random images, and what its convolutions have seen."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(96, 3, 32, 32, generator=generator), torch.arange(96) % 10
    data = Dataset(inputs, targets, inputs[:32], targets[:32], 10)

    def problem(device, fold):
        return Classification(data, Watched, 16, device)

    task = dataclasses.replace(TASKS["cifar10/lenet"], problem=problem, settings={})
    monkeypatch.setattr("multirate.lab.trial.TASKS", {task.name: task})
    for formats in SEEN.values():
        formats.clear()
    return SEEN


def test_convolutions_see_their_channels_last(lenet):
    trial = Trial("cifar10/lenet", "adam", seed=0, epochs=2)
    run_trial(trial, Circumstances(machine=Machine(device="cpu")))
    assert lenet["weight"] == lenet["output"] == {False}
    for formats in lenet.values():
        formats.clear()
    run_trial(trial, Circumstances(machine=CHANNELS_LAST))
    assert lenet["weight"] == lenet["output"] == {True}


@pytest.mark.parametrize("optimizer", ["adam", "adam-cam-hd", "multirate", "sgdn", "dog"])
def test_channels_last_change_how_not_what(optimizer, lenet):
    """An optimizer whose state is laid out otherwise than its parameters would mix their elements up."""
    trial = Trial("cifar10/lenet", optimizer, seed=0, epochs=5)
    plain = run_trial(trial, Circumstances(machine=Machine(device="cpu")))
    other = run_trial(trial, Circumstances(machine=CHANNELS_LAST))
    assert other.curves["train_loss"] == pytest.approx(plain.curves["train_loss"], rel=1e-4)
    assert plain.curves["train_loss"][0] != pytest.approx(plain.curves["train_loss"][-1], rel=5e-4)


def test_channels_stay_last_after_a_stop(lenet, tmp_path):
    trial = Trial("cifar10/lenet", "adam", seed=0, epochs=2)
    whole = run_trial(trial, Circumstances(machine=CHANNELS_LAST))
    steps = iter(range(5))
    with pytest.raises(StoppedError):
        run_trial(
            trial,
            Circumstances(machine=CHANNELS_LAST, checkpoints=tmp_path),
            Signals(should_stop=lambda: next(steps) == 4),
        )
    for formats in lenet.values():
        formats.clear()
    rest = run_trial(trial, Circumstances(machine=CHANNELS_LAST, checkpoints=tmp_path))
    assert lenet["weight"] == lenet["output"] == {True}
    assert without_times(rest.curves) == without_times(whole.curves)
