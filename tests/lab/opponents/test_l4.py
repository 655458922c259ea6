"""L4 against the paper's algorithm, number by number."""

import copy
import math

import pytest
import torch

from multirate.lab.opponents.l4 import L4SGD, L4Adam

KINDS = [L4SGD, L4Adam]
SHAPES = {"w": (2, 3), "b": (2,)}


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }


def batches(steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(4, 3, generator=generator).double(), torch.randn(4, 2, generator=generator).double())
            for _ in range(steps)]  # fmt: skip


def loss_of(values, batch):
    inputs, targets = batch
    return (torch.tanh(inputs @ values["w"].T + values["b"]) - targets).square().mean()


def train(optimizer, values, data):
    for batch in data:
        optimizer.zero_grad()
        loss = loss_of(values, batch)
        loss.backward()
        optimizer.step(lambda loss=loss: loss.detach())


def numbers(values):
    return [number for value in values.values() for number in value.detach().flatten().tolist()]


def reference(kind, data, alpha=0.15, gamma=0.9, gamma0=0.75, tau=1e-3, eps=1e-12, decay=0.0, beta1=0.9, beta2=0.999):
    """Algorithm 1 on a flat list of numbers; returns them and the rates."""
    values = parameters()
    flat, rates, minimum = numbers(values), [], None
    first, second = [0.0] * len(flat), [0.0] * len(flat)
    for step, batch in enumerate(data, start=1):
        position = 0
        for value in values.values():
            size = value.numel()
            value.data = torch.tensor(flat[position : position + size], dtype=torch.float64).view(value.shape)
            position += size
            value.grad = None
        loss = loss_of(values, batch)
        loss.backward()
        loss = loss.item() + decay / 2 * sum(number * number for number in flat)
        gradient = [entry for value in values.values() for entry in value.grad.flatten().tolist()]
        gradient = [entry + decay * number for entry, number in zip(gradient, flat, strict=True)]
        estimate, direction = [], []
        for i, entry in enumerate(gradient):
            first[i] = beta1 * first[i] + (1 - beta1) * entry
            second[i] = beta2 * second[i] + (1 - beta2) * entry * entry
            estimate.append(first[i] / (1 - beta1**step))
            scale = math.sqrt(second[i] / (1 - beta2**step)) + 1e-4 if kind is L4Adam else 1.0
            direction.append(estimate[i] / scale)
        minimum = gamma0 * loss if minimum is None else min(minimum, loss)
        product = sum(a * b for a, b in zip(estimate, direction, strict=True))
        rates.append(alpha * (loss - gamma * minimum) / (product + eps))
        flat = [number - rates[-1] * move for number, move in zip(flat, direction, strict=True)]
        minimum *= 1 + tau
    return flat, rates


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("kind", KINDS)
def test_follows_the_algorithm_of_the_paper(kind, weight_decay):
    values, data = parameters(), batches(30)
    optimizer = kind(list(values.items()), weight_decay=weight_decay)
    train(optimizer, values, data)
    expected, rates = reference(kind, data, decay=weight_decay)
    assert numbers(values) == pytest.approx(expected, rel=1e-10)
    assert {name: float(rate) for name, rate in optimizer.applied_rates().items()} == pytest.approx(
        dict.fromkeys(SHAPES, rates[-1]), rel=1e-10
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_reaches_the_formula(kind):
    values, data = parameters(), batches(25)
    own = {"momentum": 0.7} if kind is L4SGD else {"betas": (0.7, 0.95)}
    optimizer = kind(
        list(values.items()), lr=0.2, minimum_factor=0.8, initial_factor=0.5, forgetting=0.05, eps=0.3, **own
    )
    train(optimizer, values, data)
    expected, _ = reference(kind, data, 0.2, 0.8, 0.5, 0.05, 0.3, beta1=0.7, beta2=0.95)
    assert numbers(values) == pytest.approx(expected, rel=1e-10)


def test_first_step_by_hand():
    """L = w²/2 at w = 2: L = 2, L_min = 1.5, g = v = 2, rate 0.15 (2 − 1.35) / 4, w = 2 − 0.04875."""
    w = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = L4SGD([("w", w)])
    loss = w.square().sum() / 2
    loss.backward()
    returned = optimizer.step(lambda: loss.detach())
    assert returned == 2.0
    assert w.item() == pytest.approx(2 - 0.04875, rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_resumes_exactly(kind):
    data = batches(30)
    straight = parameters()
    train(kind(list(straight.items())), straight, data)

    values = parameters()
    optimizer = kind(list(values.items()))
    train(optimizer, values, data[:13])
    again, through_copy = copy.deepcopy((values, optimizer))
    train(through_copy, again, data[13:])
    fresh = kind(list(values.items()))
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(fresh, values, data[13:])
    assert numbers(again) == numbers(straight)
    assert numbers(values) == numbers(straight)


def test_groups_share_the_rate_factor_and_keep_their_own_part():
    values, data = parameters(), batches(1)
    before = {name: value.detach().clone() for name, value in values.items()}
    optimizer = L4SGD([
        {"params": [("w", values["w"])]},
        {"params": [("b", values["b"])], "lr": 0.3},
    ])  # fmt: skip
    train(optimizer, values, data)
    _, (rate,) = reference(L4SGD, data)
    for name, factor in {"w": 1.0, "b": 2.0}.items():
        torch.testing.assert_close(
            before[name] - values[name].detach(), factor * rate * values[name].grad, rtol=1e-10, atol=0
        )


def test_parameters_without_gradient_stay_and_do_not_count():
    idle = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    values, data = parameters(), batches(20)
    optimizer = L4Adam([("idle", idle), *values.items()], weight_decay=0.05)
    train(optimizer, values, data)
    expected, _ = reference(L4Adam, data, decay=0.05)
    assert numbers(values) == pytest.approx(expected, rel=1e-10)
    assert idle.tolist() == [1.0, 1.0, 1.0]


def test_asks_for_the_loss():
    values = parameters()
    assert L4SGD.needs == L4Adam.needs == "loss"
    with pytest.raises(ValueError, match="closure"):
        L4SGD(list(values.items())).step()


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (L4SGD, "lr", -0.1),
        (L4SGD, "minimum_factor", 1.0),
        (L4SGD, "initial_factor", 1.5),
        (L4SGD, "forgetting", -1e-3),
        (L4SGD, "eps", -1.0),
        (L4SGD, "momentum", 1.0),
        (L4SGD, "weight_decay", -1.0),
        (L4Adam, "betas", (0.9, 1.0)),
        (L4Adam, "betas", (1.0, 0.9)),
        (L4Adam, "adam_eps", -1.0),
    ],
)
def test_refuses_options_out_of_range(kind, option, value):
    with pytest.raises(ValueError, match=option):
        kind(list(parameters().items()), **{option: value})
