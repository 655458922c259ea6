"""Mechanic around Adam, as it is registered, against a hand-written Algorithm 1."""

import copy
import math

import pytest
import torch
from torch import nn

from multirate.lab.optimizers import OPTIMIZERS

STEPS = 40
CURVATURE = torch.tensor([1.0, 0.3, 2.0, 0.1], dtype=torch.float64)
NOISES = 0.3 * torch.randn(STEPS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
START = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
FAST = {"s_init": 0.01}


def gradient(x, k):
    return CURVATURE * x + NOISES[k]


def by_hand(s_init=1e-8, s_decay=1e-2, lr=1.0):
    """Cutkosky et al. 2023, Algorithm 1, with Adam inside."""
    x, delta, average, square = START.clone(), *(torch.zeros_like(START) for _ in range(3))
    betas = [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    s, v, reward, largest = ([value] * 6 for value in (0.0, 0.0, 0.0, 1e-6))
    for k in range(STEPS):
        g = gradient(x, k)
        h = float(delta @ (g + s_decay * sum(s) * g.norm() / (x.norm() + 1e-8) * x))
        average = 0.9 * average + 0.1 * g
        square = 0.999 * square + 0.001 * g * g
        corrected = (square / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8
        delta = delta - lr * average / (1 - 0.9 ** (k + 1)) / corrected
        largest = [max(b * m, abs(h)) for b, m in zip(betas, largest, strict=True)]
        v = [b * b * value + h * h for b, value in zip(betas, v, strict=True)]
        reward = [max(0.0, b * r - scale * h) for b, r, scale in zip(betas, reward, s, strict=True)]
        wealth = [s_init / 6 * m + r for m, r in zip(largest, reward, strict=True)]
        s = [w / (math.sqrt(value) + 1e-8) for w, value in zip(wealth, v, strict=True)]
        x = START + sum(s) * delta
    return x


def made(parts, **options):
    entry = OPTIMIZERS["mechanic-adam"]
    named = [(f"part{index}", part) for index, part in enumerate(parts)]
    return entry.build(named, {**entry.settings, **options})


def train(optimizer, parts, steps=range(STEPS)):
    for k in steps:
        whole = gradient(torch.cat([part.detach() for part in parts]), k)
        for part, piece in zip(parts, whole.split([len(part) for part in parts]), strict=True):
            part.grad = piece
        optimizer.step()
    return torch.cat([part.detach() for part in parts])


def fresh():
    """Two parameters: inner products and norms go over both."""
    return [nn.Parameter(part.clone()) for part in START.split([1, 3])]


@pytest.mark.parametrize("options", [{}, FAST, {**FAST, "s_decay": 0.5}, {**FAST, "lr": 0.3}])
def test_it_follows_algorithm_1(options):
    parts = fresh()
    actual, expected = train(made(parts, **options), parts), by_hand(**options)
    torch.testing.assert_close(actual - START, expected - START, rtol=1e-9, atol=0.0)
    assert (actual - START).abs().max() > 1e-7


def test_a_run_resumed_from_its_state_dict_goes_on_exactly():
    parts = fresh()
    first = made(parts, **FAST)
    train(first, parts, range(20))
    again = [nn.Parameter(part.detach().clone()) for part in parts]
    second = made(again, **FAST)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    expected = train(first, parts, range(20, STEPS))
    assert torch.equal(train(second, again, range(20, STEPS)), expected)


def test_the_rate_that_is_applied_is_that_of_the_whole_displacement():
    parts = fresh()
    optimizer = made(parts, **FAST)
    assert optimizer.applied_rates() == {}
    train(optimizer, parts)
    rates = optimizer.applied_rates()
    assert rates.keys() == {"part0", "part1"}
    state = optimizer.state[parts[1]]
    moved = parts[1].detach() - state["reference"]
    torch.testing.assert_close(moved, rates["part1"] * state["displacement"])


def test_a_parameter_without_a_gradient_stays():
    parts = fresh()
    optimizer = made(parts, **FAST)
    train(optimizer, parts, range(5))
    before = parts[1].detach().clone()
    parts[0].grad, parts[1].grad = torch.ones(1, dtype=torch.float64), None
    optimizer.step()
    assert torch.equal(parts[1].detach(), before)
