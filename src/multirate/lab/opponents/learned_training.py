"""How the network of the learned optimizer is trained; run as a module, this remakes the shipped weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from multirate.lab.data.digits import digits
from multirate.lab.opponents.learned import OUTPUT_SCALE, CoordinatewiseLSTM

HORIZON = 100
WINDOW = 20
RUNS = 800
LEARNING_RATE = 3e-3
# A window that meets an exploding run would otherwise undo much of what was learned.
LARGEST_GRADIENT_NORM = 1.0

QUADRATICS = 64
DIMENSION = 10
DIGITS_WIDTHS = (64, 20, 10)
DIGITS_BATCH = 64

# Loss of a flat vector of coordinates; every call may draw another batch.
Loss = Callable[[Tensor], Tensor]


def quadratics(generator: torch.Generator, count: int = QUADRATICS) -> tuple[Tensor, Loss]:
    """Draw random quadratics f(θ) = ‖Wθ - y‖² in 10 dimensions, W and y standard normal.

    Args:
        generator: Where W, y and the start are drawn from.
        count: How many independent ones; the loss is their sum, so that each has its own gradient.

    Returns:
        The start, shape (count * 10,), standard normal, and the loss.

    Reference:
        Andrychowicz et al. 2016, section 3.1.
    """
    matrices = torch.randn(count, DIMENSION, DIMENSION, generator=generator)
    targets = torch.randn(count, DIMENSION, generator=generator)

    def loss(coordinates: Tensor) -> Tensor:
        points = coordinates.view(count, DIMENSION, 1)
        return (torch.bmm(matrices, points).squeeze(2) - targets).square().sum()

    return torch.randn(count * DIMENSION, generator=generator), loss


def digits_network(generator: torch.Generator) -> tuple[Tensor, Loss]:
    """Start a network with one sigmoid hidden layer of 20 units on batches of the digits.

    Args:
        generator: Where the initial weights and every batch are drawn from.

    Returns:
        The flat initial weights and the loss, the mean cross-entropy of a new batch.

    Reference:
        Andrychowicz et al. 2016, section 3.2, with scikit-learn's digits in the place of MNIST.
    """
    data = digits()
    inputs, hidden, classes = DIGITS_WIDTHS
    shapes = ((hidden, inputs), (hidden,), (classes, hidden), (classes,))
    sizes = [torch.Size(shape).numel() for shape in shapes]
    start = [
        torch.randn(size, generator=generator) / (shape[1] ** 0.5) if len(shape) == 2 else torch.zeros(size)
        for shape, size in zip(shapes, sizes, strict=True)
    ]

    def loss(coordinates: Tensor) -> Tensor:
        parts = coordinates.split(sizes)
        weight1, bias1, weight2, bias2 = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        batch = torch.randint(len(data.train_targets), (DIGITS_BATCH,), generator=generator)
        activations = F.linear(data.train_inputs[batch], weight1, bias1).sigmoid()
        return F.cross_entropy(F.linear(activations, weight2, bias2), data.train_targets[batch])

    return torch.cat(start), loss


def unroll(
    network: CoordinatewiseLSTM, loss: Loss, coordinates: Tensor, hidden: Tensor, steps: int = WINDOW
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the learned optimizer for one window of truncated backpropagation through time.

    The gradients are inputs without a graph: the dependence ∂g/∂φ, a second derivative of the loss, is dropped.

    Args:
        network: The network that is trained.
        loss: Its training task.
        coordinates: Where the window starts, shape (coordinates,), without a graph.
        hidden: The hidden state there, without a graph.
        steps: Length of the window.

    Returns:
        The sum of the losses after each step, differentiable in the weights of the network, then the coordinates
        and the hidden state at the end, without a graph.

    Reference:
        Andrychowicz et al. 2016, equation 3 with all weights 1, and figure 2.
    """
    coordinates = coordinates.detach().requires_grad_()
    value = loss(coordinates)
    total = torch.zeros_like(value)
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(value, coordinates, retain_graph=True)
        update, hidden = network(gradient.detach(), hidden)
        coordinates = coordinates + OUTPUT_SCALE * update
        value = loss(coordinates)
        total = total + value
    return total, coordinates.detach(), hidden.detach()


def train(seed: int, runs: int = RUNS) -> CoordinatewiseLSTM:
    """Train the network with Adam on alternating runs of quadratics and of the digits, each of 100 steps.

    The rate of Adam falls to zero along a cosine. The random generator of torch is left as it was.

    Args:
        seed: Decides the initial weights of the network and all tasks.
        runs: Number of training runs; every one has five windows, each with a step of Adam.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CoordinatewiseLSTM()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(runs, 1))
    for run in range(runs):
        # The sum over quadratics is what they descend; their mean is what a run counts for.
        weight = 1.0 / QUADRATICS if run % 2 == 0 else 1.0
        coordinates, loss = quadratics(generator) if run % 2 == 0 else digits_network(generator)
        hidden = network.start(len(coordinates))
        for _ in range(HORIZON // WINDOW):
            total, coordinates, hidden = unroll(network, loss, coordinates, hidden)
            optimizer.zero_grad()
            (weight * total).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT_NORM)
            optimizer.step()
        schedule.step()
    return network


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a network on one thread, where the result depends on the seed alone, and write its weights."""
    parser = argparse.ArgumentParser(description="Train the network of the learned optimizer.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    network = train(options.seed, options.runs)
    # An open file, as otherwise its name would become part of what is written.
    with options.out.open("wb") as file:
        torch.save(network.state_dict(), file)


if __name__ == "__main__":
    main()
