"""Adaptive restart against the paper's recursion, number by number."""

import copy
import math

import pytest
import torch

from multirate.lab.opponents.restart import AdaptiveRestart

SCHEMES = ["function", "gradient"]
CURVATURES = [1.0, 0.04, 0.0025]
START = [1.0, -2.0, 3.0]


def parameters():
    numbers = torch.tensor(START, dtype=torch.float64)
    return {"a": torch.nn.Parameter(numbers[:1].clone()), "b": torch.nn.Parameter(numbers[1:].clone())}


def loss_of(values):
    curvatures = torch.tensor(CURVATURES, dtype=torch.float64)
    return (curvatures * torch.cat(list(values.values())).square()).sum() / 2


def train(optimizer, values, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(values)
        loss.backward()
        optimizer.step(lambda loss=loss: loss.detach())


def reference(scheme, steps, lr=0.9):
    """Algorithm 1 with q = 0 on a list of numbers; returns y and the steps that restarted."""
    x, y, theta, previous, restarts = list(START), list(START), 1.0, math.inf, []
    for step in range(steps):
        value = sum(c * entry * entry for c, entry in zip(CURVATURES, y, strict=True)) / 2
        gradient = [c * entry for c, entry in zip(CURVATURES, y, strict=True)]
        if scheme == "function" and value > previous:
            theta, restarts = 1.0, [*restarts, step]
        previous = value
        new = [entry - lr * slope for entry, slope in zip(y, gradient, strict=True)]
        # The root in (0, 1] of t² + θ² t − θ² = 0.
        following = (-(theta**2) + math.sqrt(theta**4 + 4 * theta**2)) / 2
        beta = theta * (1 - theta) / (theta**2 + following)
        if scheme == "gradient" and sum(g * (n - o) for g, n, o in zip(gradient, new, x, strict=True)) > 0:
            following, beta, restarts = 1.0, 0.0, [*restarts, step]
        y = [n + beta * (n - o) for n, o in zip(new, x, strict=True)]
        x, theta = new, following
    return y, restarts


@pytest.mark.parametrize("scheme", SCHEMES)
def test_follows_the_recursion_through_restarts(scheme):
    steps = 300
    values = parameters()
    train(AdaptiveRestart(list(values.items()), lr=0.9, scheme=scheme), values, steps)
    expected, restarts = reference(scheme, steps)
    assert len(restarts) >= 2
    assert torch.cat(list(values.values())).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_restart_is_a_new_start(scheme):
    """From the restart on, the path is that of an optimizer that starts there."""
    _, restarts = reference(scheme, 120)
    values = parameters()
    optimizer = AdaptiveRestart(list(values.items()), lr=0.9, scheme=scheme)
    train(optimizer, values, restarts[0] + (scheme == "gradient"))
    new_values = copy.deepcopy(values)
    train(optimizer, values, 10)
    train(AdaptiveRestart(list(new_values.items()), lr=0.9, scheme=scheme), new_values, 10)
    for name in values:
        torch.testing.assert_close(values[name], new_values[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resumes_exactly(scheme):
    straight = parameters()
    train(AdaptiveRestart(list(straight.items()), lr=0.9, scheme=scheme), straight, 80)

    values = parameters()
    optimizer = AdaptiveRestart(list(values.items()), lr=0.9, scheme=scheme)
    train(optimizer, values, 33)
    again, through_copy = copy.deepcopy((values, optimizer))
    train(through_copy, again, 47)
    fresh = AdaptiveRestart(list(values.items()), lr=0.9, scheme=scheme)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(fresh, values, 47)
    for name, value in straight.items():
        assert torch.equal(again[name], value)
        assert torch.equal(values[name], value)


def test_every_group_has_its_rate_and_idle_parameters_stay():
    idle = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    values = parameters()
    optimizer = AdaptiveRestart(
        [
            {"params": [("idle", idle), ("a", values["a"])]},
            {"params": [("b", values["b"])], "lr": 0.1},
        ],
        lr=0.5,
    )
    train(optimizer, values, 1)
    # The first step has no momentum: it is a plain gradient step.
    expected = [s - lr * c * s for s, lr, c in zip(START, [0.5, 0.1, 0.1], CURVATURES, strict=True)]
    assert torch.cat(list(values.values())).tolist() == pytest.approx(expected, rel=1e-12)
    assert idle.tolist() == [1.0, 1.0]


def test_only_the_function_scheme_insists_on_the_loss():
    values = parameters()
    loss_of(values).backward()
    assert AdaptiveRestart.needs == "loss"
    AdaptiveRestart(list(values.items()), lr=0.1, scheme="gradient").step()
    with pytest.raises(ValueError, match="closure"):
        AdaptiveRestart(list(values.items()), lr=0.1, scheme="function").step()


@pytest.mark.parametrize(("option", "value"), [("lr", -1.0), ("scheme", "speed")])
def test_refuses_options_out_of_range(option, value):
    with pytest.raises(ValueError, match=option):
        AdaptiveRestart(list(parameters().items()), **{"lr": 0.1, option: value})
