"""The tasks of the yardstick: those that defaults are chosen on, and those that nothing is ever chosen on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from multirate.lab.data.digits import digits
from multirate.lab.data.images import cifar10, mnist
from multirate.lab.data.text import tiny_shakespeare
from multirate.lab.models.feed_forward import FeedForward
from multirate.lab.models.lenet import LeNet5
from multirate.lab.models.lstm import LSTMLanguageModel
from multirate.lab.models.resnet import ResNet18
from multirate.lab.models.transformer import Transformer
from multirate.lab.problems.analytic import LogisticRegression, Quadratic, Rosenbrock
from multirate.lab.problems.base import Problem
from multirate.lab.problems.reconstruction import Reconstruction
from multirate.lab.registry import Registry
from multirate.lab.task import MakeProblem, Task, classification, crop_and_flip_cifar10, language, whole

DEVELOPMENT, TEST = "development", "test"
GROUPS = (DEVELOPMENT, TEST)
_FOLDERS = {DEVELOPMENT: "yardstick", TEST: "yardstick-test"}

ZERO_FLOOR = 1.0
"""What is added to the loss of a problem whose least loss is zero, so that ratios of it mean something."""

DIGITS = 1437
"""Examples of the whole training set of digits."""

STEPS = 100
"""Steps between two evaluations where an epoch has no length of its own."""


@dataclass(frozen=True)
class YardstickTask:
    """A task of the yardstick.

    Attributes:
        task: The task.
        group: `development` or `test`.
        floor: Added to a loss before a ratio is taken.
        needs_gpu: Whether it is left out on a CPU unless it is named.
    """

    task: Task
    group: str
    floor: float = 0.0
    needs_gpu: bool = False

    @property
    def name(self) -> str:
        """The name of the task."""
        return self.task.name


def group_tasks(group: str, *, gpu: bool) -> list[str]:
    """Return the tasks of a group that are run unless told otherwise."""
    return [name for name, entry in YARDSTICK.items() if entry.group == group and (gpu or not entry.needs_gpu)]


def _entry(
    group: str,
    name: str,
    description: str,
    problem: MakeProblem,
    epochs: int,
    batch_size: int,
    *,
    floor: float = 0.0,
    needs_gpu: bool = False,
) -> YardstickTask:
    task = Task(f"{_FOLDERS[group]}/{name}", description, problem, epochs, batch_size)
    return YardstickTask(task, group, floor, needs_gpu)


def _feed_forward(*widths: int) -> Callable[[], nn.Module]:
    return functools.partial(FeedForward, widths)


def _gpt(vocabulary: int) -> nn.Module:
    return Transformer(vocabulary, context=64, layers=2, heads=4, width=96)


def _gpt_untied(vocabulary: int) -> nn.Module:
    return Transformer(vocabulary, context=64, layers=3, heads=4, width=64, dropout=0.1, tied=False)


def _lstm(vocabulary: int) -> nn.Module:
    return LSTMLanguageModel(vocabulary, width=128)


def _lstm_deep(vocabulary: int) -> nn.Module:
    return LSTMLanguageModel(vocabulary, width=64, layers=2)


def _autoencoder(device: torch.device) -> Problem:
    return Reconstruction(mnist(), _feed_forward(784, 128, 32, 128, 784), 128, device)


def _digits_autoencoder(device: torch.device) -> Problem:
    return Reconstruction(digits(), _feed_forward(64, 32, 8, 32, 64), DIGITS, device)


def _development() -> Iterator[YardstickTask]:
    entry = functools.partial(_entry, DEVELOPMENT)
    network = _feed_forward(784, 100, 100, 10)
    yield entry(
        "mnist-ffnn", "MNIST, a feed-forward network 784-100-100-10",
        classification(mnist, network, 128), epochs=3, batch_size=128,
    )  # fmt: skip
    yield entry(
        "cifar10-lenet", "CIFAR-10, LeNet-5",
        classification(cifar10, functools.partial(LeNet5, 3, 32), 256), epochs=5, batch_size=256,
    )  # fmt: skip
    yield entry(
        "gpt", "tiny Shakespeare by character, a transformer of 2 layers, 800 steps",
        language(tiny_shakespeare, _gpt, 32, STEPS), epochs=8, batch_size=32,
    )  # fmt: skip
    yield entry(
        "lstm", "tiny Shakespeare by character, an LSTM, 800 steps",
        language(tiny_shakespeare, _lstm, 32, STEPS), epochs=8, batch_size=32,
    )  # fmt: skip
    yield entry(
        "digits-logistic", "8x8 handwritten digits, logistic regression",
        classification(digits, _feed_forward(64, 10), 32), epochs=22, batch_size=32,
    )  # fmt: skip
    yield entry(
        "quadratic", "noisy quadratic in 100 dimensions, condition 1,000, from far away, 2,000 steps",
        whole(functools.partial(Quadratic, 100, 1000.0, 1.0, start=10.0)), epochs=20, batch_size=1,
        floor=ZERO_FLOOR,
    )  # fmt: skip
    yield entry(
        "mnist-batch4", "MNIST, a feed-forward network 784-100-100-10, 4 examples a step, 5,000 steps",
        classification(mnist, network, 4, steps_per_epoch=1000), epochs=5, batch_size=4,
    )  # fmt: skip
    yield entry(
        "cifar10-resnet18", "CIFAR-10 with random crops and flips, ResNet-18",
        classification(cifar10, ResNet18, 256, crop_and_flip_cifar10), epochs=15, batch_size=256, needs_gpu=True,
    )  # fmt: skip


def _test() -> Iterator[YardstickTask]:
    entry = functools.partial(_entry, TEST)
    yield entry(
        "mnist-wide", "MNIST, a feed-forward network 784-500-500-500-10",
        classification(mnist, _feed_forward(784, 500, 500, 500, 10), 64), epochs=1, batch_size=64,
    )  # fmt: skip
    yield entry(
        "mnist-long", "MNIST, a feed-forward network 784-100-100-10, ten times the length",
        classification(mnist, _feed_forward(784, 100, 100, 10), 128), epochs=30, batch_size=128,
    )  # fmt: skip
    yield entry(
        "mnist-lenet", "MNIST, LeNet-5",
        classification(mnist, functools.partial(LeNet5, 1, 28), 64, steps_per_epoch=300), epochs=4, batch_size=64,
    )  # fmt: skip
    yield entry(
        "cifar10-lenet-batch32", "CIFAR-10, LeNet-5, 32 examples a step",
        classification(cifar10, functools.partial(LeNet5, 3, 32), 32), epochs=2, batch_size=32,
    )  # fmt: skip
    yield entry(
        "gpt-untied", "tiny Shakespeare by character, a transformer of 3 narrow layers, untied, with dropout",
        language(tiny_shakespeare, _gpt_untied, 16, STEPS), epochs=12, batch_size=16,
    )  # fmt: skip
    yield entry(
        "lstm-deep", "tiny Shakespeare by character, a narrow LSTM of 2 layers",
        language(tiny_shakespeare, _lstm_deep, 16, STEPS), epochs=12, batch_size=16,
    )  # fmt: skip
    yield entry("autoencoder", "MNIST, an autoencoder 784-128-32-128-784, mean squared error",
        whole(_autoencoder), epochs=3, batch_size=128,
    )  # fmt: skip
    yield entry(
        "digits-autoencoder", "8x8 digits, an autoencoder 64-32-8-32-64, no noise: all in each of 500 steps",
        whole(_digits_autoencoder), epochs=500, batch_size=DIGITS,
    )  # fmt: skip
    yield entry(
        "rosenbrock", "Rosenbrock's valley in 10 dimensions, no noise, 2,000 steps",
        whole(functools.partial(Rosenbrock, 10)), epochs=20, batch_size=1, floor=ZERO_FLOOR,
    )  # fmt: skip
    yield entry(
        "badly-scaled", "logistic regression on badly scaled features, 2,000 steps",
        whole(functools.partial(LogisticRegression, 2000, 50, 32)), epochs=20, batch_size=32,
    )  # fmt: skip


YARDSTICK: Registry[YardstickTask] = Registry("task of the yardstick", [*_development(), *_test()])
