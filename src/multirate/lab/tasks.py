"""The table of tasks: a data set, a model and the protocol that every optimizer is held to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

from torch import nn

from multirate.lab.data.dataset import Dataset
from multirate.lab.data.digits import digits
from multirate.lab.data.images import cifar10, mnist, svhn
from multirate.lab.data.text import tiny_shakespeare
from multirate.lab.models.feed_forward import FeedForward
from multirate.lab.models.lenet import LeNet5
from multirate.lab.models.lstm import LSTMLanguageModel
from multirate.lab.models.resnet import ResNet18, ResNet34
from multirate.lab.models.transformer import Transformer
from multirate.lab.problems.analytic import STEPS_PER_EPOCH, LogisticRegression, Quadratic, RandomQuadratics, Rosenbrock
from multirate.lab.registry import Registry
from multirate.lab.task import Task, classification, crop_and_flip_cifar10, language, whole
from multirate.lab.variants import Settings
from multirate.lab.yardstick.tasks import YARDSTICK


def _feed_forward_settings(lr: float) -> Mapping[str, Settings]:
    """The feed-forward protocol of arXiv 2008.07277, section 4.3."""
    combined: Settings = {"lr": lr, "hyper_lr": 1e-7, "weight_lr": 0.01}
    return {
        "adam": {"lr": lr},
        "adam-hd": {"lr": lr, "hyper_lr": 1e-7},
        "adam-cam-hd": {**combined, "levels": ("global", "layer"), "weights": (0.5, 0.5)},
        "adam-cam-hd-3": {**combined, "levels": ("global", "layer", "parameter"), "weights": (0.4, 0.3, 0.3)},
    }


def _lenet_settings() -> Mapping[str, Settings]:
    """The LeNet-5 protocol of arXiv 2008.07277, section 4.4; the learning rate of SGDN is not stated there."""
    combined: Settings = {"levels": ("global", "unit"), "weights": (0.8, 0.2), "weight_lr": 0.03, "transition": 0.002}
    return {
        "adam-hd": {"hyper_lr": 1e-9},
        "adam-cam-hd": {**combined, "hyper_lr": 1e-8},
        "sgdn-cam-hd": {**combined, "hyper_lr": 1e-3},
    }


def _resnet_settings() -> Mapping[str, Settings]:
    """The ResNet protocol of arXiv 2008.07277, section 4.5; SGDN's weight decay is not stated there."""
    combined: Settings = {"levels": ("global", "unit"), "weights": (0.8, 0.2), "weight_lr": 0.001, "transition": 0.001}
    decayed: Settings = {"weight_decay": 1e-4}
    return {
        "adam": decayed,
        "adam-hd": {**decayed, "hyper_lr": 1e-9},
        "adam-cam-hd": {**decayed, **combined, "hyper_lr": 1e-8},
        "adabound": decayed,
        "adabound-cam-hd": {**decayed, **combined, "hyper_lr": 1e-8},
        "sgdn": {"lr": 0.1, "weight_decay": 5e-4},
        "sgdn-cam-hd": {**combined, "lr": 0.1, "hyper_lr": 1e-6, "weight_decay": 5e-4},
        "adam-l4": {"weight_decay": 5e-4},
    }


def _feed_forward_tasks(name: str, title: str, data: Callable[[], Dataset], inputs: int) -> Iterator[Task]:
    for hidden, batch_size, lr in (
        ((100, 100), 32, 3e-4),
        ((100, 100, 100), 32, 3e-4),
        ((1000, 100), 64, 1e-3),
        ((1000, 1000), 128, 1e-3),
    ):
        widths = "-".join(str(width) for width in hidden)
        yield Task(
            name=f"{name}/ffnn-{widths}",
            description=f"{title}, a feed-forward network {inputs}-{widths}-10",
            problem=classification(data, functools.partial(FeedForward, (inputs, *hidden, 10)), batch_size),
            epochs=30,
            batch_size=batch_size,
            settings=_feed_forward_settings(lr),
        )


def _baydin_tasks(name: str, title: str, data: Callable[[], Dataset], inputs: int) -> Iterator[Task]:
    """The two MNIST tasks of Baydin et al. 2018, arXiv 1703.04782, section 4."""
    decay: Settings = {"lr": 1e-3, "weight_decay": 1e-4}
    settings: dict[str, Settings] = {
        "sgd": decay,
        "sgdn": decay,
        "adam": decay,
        "sgd-hd": {**decay, "hyper_lr": 1e-3},
        "sgdn-hd": {**decay, "hyper_lr": 1e-3},
        "adam-hd": {**decay, "hyper_lr": 1e-7},
    }
    for model, words, hidden, epochs in (
        ("logistic", "logistic regression", (), 10),
        ("mlp", f"a feed-forward network {inputs}-1000-1000-10, Baydin's protocol", (1000, 1000), 100),
    ):
        yield Task(
            name=f"{name}/{model}",
            description=f"{title}, {words}",
            problem=classification(data, functools.partial(FeedForward, (inputs, *hidden, 10)), 128),
            epochs=epochs,
            batch_size=128,
            settings=settings,
        )


def _lenet_task(name: str, title: str, data: Callable[[], Dataset], channels: int, size: int, batch_size: int) -> Task:
    return Task(
        name=f"{name}/lenet",
        description=f"{title}, LeNet-5",
        problem=classification(data, functools.partial(LeNet5, channels, size), batch_size),
        epochs=20,
        batch_size=batch_size,
        settings=_lenet_settings(),
    )


def _resnet_task(model: str, make: Callable[[], nn.Module]) -> Task:
    return Task(
        name=f"cifar10/{model}",
        description=f"CIFAR-10 with random crops and flips, {make.__name__}",
        problem=classification(cifar10, make, 256, crop_and_flip_cifar10),
        epochs=200,
        batch_size=256,
        settings=_resnet_settings(),
    )


def _analytic_tasks() -> Iterator[Task]:
    for name, description, make, batch_size in (
        (
            "quadratic/noisy",
            "quadratic in 100 dimensions, condition 100, noisy gradients",
            functools.partial(Quadratic, 100, 100.0, 1.0),
            1,
        ),
        (
            "quadratic/ill-conditioned",
            "quadratic in 100 dimensions, condition 10,000, no noise",
            functools.partial(Quadratic, 100, 10_000.0, 0.0),
            1,
        ),
        ("rosenbrock/two", "Rosenbrock's valley in 2 dimensions", functools.partial(Rosenbrock, 2), 1),
        (
            "synthetic/logistic",
            "logistic regression on badly scaled features",
            functools.partial(LogisticRegression, 2000, 50, 32),
            32,
        ),
    ):
        yield Task(name, description, whole(make), epochs=20, batch_size=batch_size)
    for epochs in (1, 20):
        steps = STEPS_PER_EPOCH * epochs
        yield Task(
            f"quadratics/{steps}-steps",
            f"64 random quadratics in 10 dimensions, their median loss after {steps:,} steps",
            whole(functools.partial(RandomQuadratics, 64, 10)),
            epochs=epochs,
            batch_size=1,
        )


def _language_task(name: str, description: str, model: Callable[[int], nn.Module], epochs: int) -> Task:
    problem = language(tiny_shakespeare, model, batch_size=32)
    return Task(f"shakespeare/{name}", description, problem, epochs=epochs, batch_size=32)


def _gpt(vocabulary: int) -> nn.Module:
    return Transformer(vocabulary, context=64, layers=2, heads=4, width=96)


def _lstm(vocabulary: int) -> nn.Module:
    return LSTMLanguageModel(vocabulary, width=128)


TASKS: Registry[Task] = Registry(
    "task",
    [
        Task(
            name="digits/ffnn",
            description="8x8 handwritten digits, a feed-forward network 64-100-100-10",
            problem=classification(digits, functools.partial(FeedForward, (64, 100, 100, 10)), 32),
            epochs=30,
            batch_size=32,
            settings=_feed_forward_settings(1e-3),
        ),
        *_feed_forward_tasks("digits", "8x8 handwritten digits", digits, 64),
        *_feed_forward_tasks("mnist", "MNIST", mnist, 784),
        *_baydin_tasks("digits", "8x8 handwritten digits", digits, 64),
        *_baydin_tasks("mnist", "MNIST", mnist, 784),
        _lenet_task("mnist", "MNIST", mnist, 1, 28, 256),
        _lenet_task("cifar10", "CIFAR-10", cifar10, 3, 32, 256),
        _lenet_task("svhn", "SVHN", svhn, 3, 32, 128),
        _resnet_task("resnet18", ResNet18),
        _resnet_task("resnet34", ResNet34),
        _language_task("gpt", "tiny Shakespeare by character, a transformer of 2 layers", _gpt, 3),
        _language_task("lstm", "tiny Shakespeare by character, an LSTM", _lstm, 3),
        *_analytic_tasks(),
        *(entry.task for entry in YARDSTICK.values()),
    ],
)
