"""Problems small enough to be understood: quadratics, Rosenbrock's valley, logistic regression."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multirate.lab.problems.base import Batch, Problem

# None of these passes over data in a natural way, so an epoch is as long as it is worth evaluating after.
STEPS_PER_EPOCH = 100
DATA_SEED = 0
TEST_SHARE = 0.2
DECADES_OF_SCALE = 3
# Deviation of the log-odds: most labels follow their features, about one in six does not.
SIGNAL = 3.0


class Point(nn.Module):
    """A model that is nothing but a parameter vector, called `point`.

    Args:
        start: Where the vector starts, shape (dimension,).
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.point = nn.Parameter(start)

    def forward(self) -> Tensor:
        """Return the vector."""
        return self.point


class Quadratic(Problem):
    """The noisy quadratic model.

    `f(θ) = ½ Σᵢ λᵢ (θᵢ - θ*ᵢ)²`, with `λ` log-spaced from `1 / condition` to 1 and `θ* = 1`. A batch is a minimum
    displaced by `noise · N(0, I)`, so its gradient `λ (θ - θ* - noise · ξ)` has covariance `noise² · diag(λ²)`.
    The start is drawn from `N(0, start² · I)`. The eigenvectors are the axes: a rate for each parameter can fit every
    curvature, which says nothing about problems whose parameters are correlated.

    Attributes:
        curvatures: The eigenvalues λ, shape (dimension,), float64, on the CPU.

    Args:
        dimension: Number of parameters, at least 2.
        condition: Greatest eigenvalue over the least.
        noise: Deviation of every coordinate of a batch's minimum.
        device: Where to train.
        start: Deviation of every coordinate of the start.

    Raises:
        ValueError: If there are fewer than 2 parameters, the condition is below 1, or the noise or the start negative.

    Reference:
        Wu, Ren, Liao, Grosse: Understanding short-horizon bias in stochastic meta-optimization, 2018 (its toy problem).
    """

    def __init__(
        self, dimension: int, condition: float, noise: float, device: torch.device, start: float = 1.0
    ) -> None:
        if dimension < 2:
            raise ValueError(f"dimension must be at least 2, for two ends of the spectrum, got {dimension}")
        if not 1 <= condition < math.inf:
            raise ValueError(f"condition must be finite and at least 1 (all curvatures alike), got {condition}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be finite and at least 0 (none), got {noise}")
        if not 0 <= start < math.inf:
            raise ValueError(f"start must be finite and at least 0 (the origin), got {start}")
        self.device = device
        self.steps_per_epoch = STEPS_PER_EPOCH
        self.model = Point(start * torch.randn(dimension)).to(device)
        self.forward = self.model
        self.curvatures = condition ** torch.linspace(-1, 0, dimension, dtype=torch.float64)
        self._device_curvatures = self.curvatures.float().to(device)
        self._dimension = dimension
        self._noise = noise

    def batches(self, order: torch.Generator, noise: torch.Generator, first: int = 0) -> Iterator[Batch]:
        """Yield displaced minima, shape (dimension,); `order` is not used."""
        for _ in range(first, self.steps_per_epoch):
            minimum = 1 + self._noise * torch.randn(self._dimension, generator=noise)
            yield (minimum.to(self.device),)

    def loss(self, batch: Batch) -> Tensor:
        """Return `½ Σᵢ λᵢ (θᵢ - cᵢ)²` for the displaced minimum `c` of the batch."""
        (minimum,) = batch
        distance: Tensor = self.forward() - minimum
        return 0.5 * (self._device_curvatures * distance.square()).sum()

    def evaluate(self) -> dict[str, float]:
        """Return the loss without noise, in double precision; its least value is 0."""
        distance = self.forward().cpu().double() - 1
        return {"loss": float(0.5 * (self.curvatures * distance.square()).sum())}


class RandomQuadratics(Problem):
    """Many random quadratics of their own side by side: what learned optimizers are trained and tried on.

    `fⱼ(θⱼ) = ‖Wⱼ θⱼ - yⱼ‖²`, all entries of W, y and the start standard normal, without noise. The training loss is
    the sum over j, so that each quadratic has the gradient that it has alone.

    Args:
        count: How many quadratics.
        dimension: Parameters of each.
        device: Where to train.

    Raises:
        ValueError: If a number is not positive.

    Reference:
        Andrychowicz et al. 2016, section 3.1.
    """

    def __init__(self, count: int, dimension: int, device: torch.device) -> None:
        if count < 1 or dimension < 1:
            raise ValueError(f"count and dimension must be at least 1, got {count} and {dimension}")
        self.device = device
        self.steps_per_epoch = STEPS_PER_EPOCH
        self._matrices = torch.randn(count, dimension, dimension).to(device)
        self._targets = torch.randn(count, dimension).to(device)
        self.model = Point(torch.randn(count, dimension)).to(device)
        self.forward = self.model

    def batches(self, order: torch.Generator, noise: torch.Generator, first: int = 0) -> Iterator[Batch]:
        """Yield empty batches; nothing is drawn."""
        for _ in range(first, self.steps_per_epoch):
            yield ()

    def loss(self, batch: Batch) -> Tensor:
        """Return the sum of the losses."""
        return _quadratic_losses(self._matrices, self._targets, self.forward()).sum()

    def evaluate(self) -> dict[str, float]:
        """Return the median of the losses in double precision: a few that are badly conditioned rule every mean."""
        points = self.forward().double()
        return {"loss": float(_quadratic_losses(self._matrices.double(), self._targets.double(), points).median())}


def _quadratic_losses(matrices: Tensor, targets: Tensor, points: Tensor) -> Tensor:
    return (torch.bmm(matrices, points.unsqueeze(2)).squeeze(2) - targets).square().sum(dim=1)


class Rosenbrock(Problem):
    """Rosenbrock's curved valley in its coupled form, without noise.

    `f(θ) = Σᵢ 100 (θᵢ₊₁ - θᵢ²)² + (1 - θᵢ)²`, from (-1.2, 1, -1.2, 1, …) to the minimum 0 at (1, …, 1). From 4
    dimensions on there is a second, local minimum near (-1, 1, …, 1), where the loss is about 4.

    Args:
        dimension: Number of parameters, at least 2.
        device: Where to train.

    Raises:
        ValueError: If there are fewer than 2 parameters.

    Reference:
        Rosenbrock: An automatic method for finding the greatest or least value of a function, 1960. Shang, Qiu: A
        note on the extended Rosenbrock function, 2006, for the coupled form.
    """

    def __init__(self, dimension: int, device: torch.device) -> None:
        if dimension < 2:
            raise ValueError(f"dimension must be at least 2, as the terms couple neighbours, got {dimension}")
        self.device = device
        self.steps_per_epoch = STEPS_PER_EPOCH
        start = torch.ones(dimension)
        start[::2] = -1.2
        self.model = Point(start).to(device)
        self.forward = self.model

    def batches(self, order: torch.Generator, noise: torch.Generator, first: int = 0) -> Iterator[Batch]:
        """Yield empty batches: every step sees the same function, and neither generator is used."""
        for _ in range(first, self.steps_per_epoch):
            yield ()

    def loss(self, batch: Batch) -> Tensor:
        """Return the function's value."""
        return _rosenbrock(self.forward())

    def evaluate(self) -> dict[str, float]:
        """Return the function's value in double precision; its least value is 0."""
        return {"loss": float(_rosenbrock(self.forward().cpu().double()))}


class LogisticRegression(Problem):
    """Two classes, from features whose scales span three decades.

    Features are independent normal numbers with deviations log-spaced from 10^-1.5 to 10^1.5. The true
    weights are inverse to these deviations, so that all features matter alike, and labels are drawn with the odds
    they give, so that no model separates the classes. The data are the same whatever the seed of the trial. The
    last fifth of the examples is for testing.

    Args:
        examples: Number of examples, those for testing included.
        dimension: Number of features, at least 2.
        batch_size: Examples a step, at most as many as there are to train on.
        device: Where to train.

    Raises:
        ValueError: If there are fewer than 10 examples or 2 features, or the batch size does not fit them.
    """

    def __init__(self, examples: int, dimension: int, batch_size: int, device: torch.device) -> None:
        if examples < 10:
            raise ValueError(f"examples must be at least 10, to train and to test on, got {examples}")
        if dimension < 2:
            raise ValueError(f"dimension must be at least 2, for two ends of the scales, got {dimension}")
        train = examples - round(TEST_SHARE * examples)
        if not 1 <= batch_size <= train:
            raise ValueError(f"batch_size must be from 1 to the {train} examples to train on, got {batch_size}")
        self.device = device
        self.steps_per_epoch = STEPS_PER_EPOCH
        self.model = nn.Linear(dimension, 1).to(device)
        self.forward = self.model
        inputs, targets = _badly_scaled_data(examples, dimension)
        self._train_inputs, self._test_inputs = inputs[:train].to(device), inputs[train:].to(device)
        self._train_targets, self._test_targets = targets[:train].to(device), targets[train:].to(device)
        self._batch_size = batch_size

    def batches(self, order: torch.Generator, noise: torch.Generator, first: int = 0) -> Iterator[Batch]:
        """Yield (inputs, targets) from as many passes as 100 steps need; the last pass is cut short."""
        examples, needed = len(self._train_targets), self.steps_per_epoch * self._batch_size
        passes = [torch.randperm(examples, generator=order) for _ in range(math.ceil(needed / examples))]
        indices = torch.cat(passes)[:needed].view(self.steps_per_epoch, self._batch_size).to(self.device)
        for chosen in indices[first:]:
            yield self._train_inputs[chosen], self._train_targets[chosen]

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood of the labels."""
        inputs, targets = batch
        return F.binary_cross_entropy_with_logits(self.forward(inputs).squeeze(1), targets)

    def evaluate(self) -> dict[str, float]:
        """Return the mean negative log-likelihood and the accuracy on the examples for testing."""
        scores = self.forward(self._test_inputs).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(scores, self._test_targets)
        right = (scores > 0) == (self._test_targets > 0.5)
        return {"loss": float(loss), "accuracy": int(right.sum()) / len(right)}


def _rosenbrock(point: Tensor) -> Tensor:
    here, following = point[:-1], point[1:]
    return (100 * (following - here.square()).square() + (1 - here).square()).sum()


def _badly_scaled_data(examples: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Return features (examples, dimension) and labels 0.0 or 1.0 (examples,), the same in every call."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    features = torch.randn(examples, dimension, generator=generator)
    signs = 2.0 * torch.randint(2, (dimension,), generator=generator) - 1
    chances = torch.sigmoid(SIGNAL / math.sqrt(dimension) * (features @ signs))
    targets = torch.bernoulli(chances, generator=generator)
    scales = torch.logspace(-DECADES_OF_SCALE / 2, DECADES_OF_SCALE / 2, dimension)
    return features * scales, targets
