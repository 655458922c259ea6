"""Every opponent that comes from a package, built as it is registered, against its paper's formulas."""

import copy
import functools
import math
import pickle

import pytest
import torch
from torch import nn

from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.variants import Variant

STEPS = 27
CURVATURE = torch.tensor([1.0, 0.3, 2.0, 0.1], dtype=torch.float64)
NOISES = 0.3 * torch.randn(STEPS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
START = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


def gradient(x, k):
    return CURVATURE * x + NOISES[k]


def train(optimizer, x, steps=range(STEPS)):
    for k in steps:
        x.grad = gradient(x.detach(), k)
        optimizer.step()
    return x.detach()


def adam_moments(beta1=0.9, beta2=0.999):
    """Return a function from gradient to (t, m, v), the moments without bias correction."""
    state = [0, torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)]

    def moments(g):
        state[0] += 1
        state[1] = beta1 * state[1] + (1 - beta1) * g
        state[2] = beta2 * state[2] + (1 - beta2) * g * g
        return state

    return moments


def sgd(lr, momentum=0.0):
    x, h = START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        h = momentum * h + gradient(x, k)
        x = x - lr * h
    return x


def sgd_nesterov(lr, momentum):
    x, h = START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        g = gradient(x, k)
        h = momentum * h + g
        x = x - lr * (g + momentum * h)
    return x


def adagrad(lr):
    x, total = START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        g = gradient(x, k)
        total = total + g * g
        x = x - lr * g / (total.sqrt() + 1e-10)
    return x


def rmsprop(lr):
    x, v = START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        g = gradient(x, k)
        v = 0.99 * v + 0.01 * g * g
        x = x - lr * g / (v.sqrt() + 1e-8)
    return x


def adam(lr, decay=0.0):
    x, moments = START.clone(), adam_moments()
    for k in range(STEPS):
        t, m, v = moments(gradient(x, k))
        x = (1 - lr * decay) * x - lr * m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return x


def amsgrad(lr):
    x, moments, largest = START.clone(), adam_moments(), torch.zeros_like(START)
    for k in range(STEPS):
        t, m, v = moments(gradient(x, k))
        largest = torch.maximum(largest, v)
        x = x - lr * m / (1 - 0.9**t) / ((largest / (1 - 0.999**t)).sqrt() + 1e-8)
    return x


def radam(lr):
    x, moments = START.clone(), adam_moments()
    longest = 2 / (1 - 0.999) - 1
    for k in range(STEPS):
        t, m, v = moments(gradient(x, k))
        length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
        update = m / (1 - 0.9**t)
        if length > 5:
            top, bottom = (length - 4) * (length - 2) * longest, (longest - 4) * (longest - 2) * length
            update = math.sqrt(top / bottom) * update * math.sqrt(1 - 0.999**t) / (v.sqrt() + 1e-8)
        x = x - lr * update
    return x


def adabound(lr, final_lr=0.1, gamma=1e-3, decay=0.0):
    """Luo et al. 2019, with Adam's bias correction as in the authors' code."""
    x, moments = START.clone(), adam_moments()
    for k in range(STEPS):
        t, m, v = moments(gradient(x, k) + decay * x)
        rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) / (v.sqrt() + 1e-8)
        lower, upper = final_lr * (1 - 1 / (gamma * t + 1)), final_lr * (1 + 1 / (gamma * t))
        x = x - rate.clamp(lower, upper) * m
    return x


def lookahead(lr, k=5, alpha=0.5):
    """Zhang et al. 2019 around Adam, whose moments go on; returns the fast weights and the slow ones."""
    fast, slow, moments = START.clone(), START.clone(), adam_moments()
    for step in range(STEPS):
        t, m, v = moments(gradient(fast, step))
        fast = fast - lr * m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        if t % k == 0:
            slow = slow + alpha * (fast - slow)
            fast = slow.clone()
    return fast, slow


def prodigy():
    """Prodigy with Adam's moments, Mishchenko & Defazio 2024, γ_k = 1, without bias correction."""
    x, d, r = START.clone(), 1e-6, 0.0
    m, v, s = (torch.zeros_like(START) for _ in range(3))
    beta3 = math.sqrt(0.999)
    for k in range(STEPS):
        g = gradient(x, k)
        m = 0.9 * m + 0.1 * d * g
        v = 0.999 * v + 0.001 * d * d * g * g
        # Authors' code, not the paper: r and s leave out the factor 1 − β₃, which cancels in their quotient.
        r = beta3 * r + d * d * float(g @ (START - x))
        s = beta3 * s + d * d * g
        old, d = d, max(d, r / float(s.abs().sum()))
        x = x - old * m / (v.sqrt() + d * 1e-8)
    return x


def dadapt_adam():
    """D-Adapted Adam, Defazio & Mishchenko 2023."""
    x, d, r = START.clone(), 1e-6, 0.0
    m, v, s = (torch.zeros_like(START) for _ in range(3))
    root = math.sqrt(0.999)
    for k in range(STEPS):
        g = gradient(x, k)
        product = d * float(g @ (s / (v.sqrt() + 1e-8)))
        m = 0.9 * m + 0.1 * d * g
        v = 0.999 * v + 0.001 * g * g
        s = root * s + (1 - root) * d * g
        r = root * r + (1 - root) * product
        d = max(d, r / ((1 - root) * float(s.abs().sum())))
        x = x - m / (v.sqrt() + 1e-8)
    return x


def dadapt_sgd():
    """D-Adapted SGD with momentum, Defazio & Mishchenko 2023, d̂ by inner products as in their code."""
    x, z, s, d, weighted = START.clone(), START.clone(), torch.zeros_like(START), 1e-6, 0.0
    first = float(gradient(START, 0).norm())
    for k in range(STEPS):
        g = gradient(x, k)
        rate = d / first
        weighted += rate * float(g @ s)
        s = s + rate * g
        d = max(d, 2 * weighted / float(s.norm()))
        z = START - s
        x = 0.9 * x + 0.1 * z
    return x


def schedule_free_sgd(lr, momentum):
    """Defazio et al. 2024; returns y, where it is trained, and x, where it is evaluated."""
    x, z = START.clone(), START.clone()
    for k in range(STEPS):
        g = gradient((1 - momentum) * z + momentum * x, k)
        z = z - lr * g
        x = x + (z - x) / (k + 1)
    return (1 - momentum) * z + momentum * x, x


def schedule_free_adamw(lr, decay=0.0, warmup=1):
    """Defazio et al. 2024, with weight decay at y; returns y, where it is trained, and x, where it is evaluated."""
    x, z, v, total = START.clone(), START.clone(), torch.zeros_like(START), 0.0
    for k in range(STEPS):
        y = 0.1 * z + 0.9 * x
        g = gradient(y, k)
        v = 0.999 * v + 0.001 * g * g
        rate = lr * min(1.0, (k + 1) / warmup)
        total += rate**2
        z = z - rate * (g / ((v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8) + decay * y)
        x = x + rate**2 / total * (z - x)
    return 0.1 * z + 0.9 * x, x


def dog(gamma=8.0):
    """Distance over gradients, Ivgi et al. 2023; returns the last iterate and the average."""
    average, x, total, furthest = START.clone(), START.clone(), 1e-8, 1e-6 * (1 + float(START.norm()))
    for k in range(STEPS):
        g = gradient(x, k)
        furthest = max(furthest, float((x - START).norm()))
        total += float(g @ g)
        x = x - furthest / math.sqrt(total) * g
        share = (gamma + 1) / (k + 1 + gamma)
        average = (1 - share) * average + share * x
    return x, average


# Of each opponent as it is registered, and of some with other options, so that every term of the formula counts.
CASES = {
    "sgd": functools.partial(sgd, 0.1),
    "sgd:momentum=0.9": functools.partial(sgd, 0.1, 0.9),
    "sgdn": functools.partial(sgd_nesterov, 0.01, 0.9),
    "adagrad": functools.partial(adagrad, 0.01),
    "rmsprop": functools.partial(rmsprop, 0.001),
    "adam": functools.partial(adam, 0.001),
    "amsgrad": functools.partial(amsgrad, 0.001),
    "amsgrad:lr=0.05": functools.partial(amsgrad, 0.05),
    "adamw": functools.partial(adam, 0.001, decay=0.01),
    "adamw:lr=0.05:weight_decay=0.1": functools.partial(adam, 0.05, decay=0.1),
    "radam": functools.partial(radam, 0.001),
    "adabound": functools.partial(adabound, 0.001),
    "adabound:gamma=0.2:lr=0.05:weight_decay=0.1": functools.partial(adabound, 0.05, gamma=0.2, decay=0.1),
    "lookahead-adam": functools.partial(lookahead, 0.001),
    "lookahead-adam:alpha=0.8:k=3:lr=0.05": functools.partial(lookahead, 0.05, 3, 0.8),
    "prodigy": prodigy,
    "d-adapt-adam": dadapt_adam,
    "d-adapt-sgd": dadapt_sgd,
    "schedule-free-sgd": functools.partial(schedule_free_sgd, 1.0, 0.9),
    "schedule-free": functools.partial(schedule_free_adamw, 0.0025),
    "schedule-free:lr=0.05:warmup_steps=5:weight_decay=0.1": functools.partial(schedule_free_adamw, 0.05, 0.1, 5),
    "dog": dog,
}
AVERAGING = ("lookahead-adam", "schedule-free", "schedule-free-sgd", "dog")
# These keep a part of their state in attributes that torch's own pickling leaves out; their state_dict is whole.
STATE_DICT_ONLY = {"adabound", "dog"}
REGISTERED = [name for name in CASES if ":" not in name]


def made(name, x):
    variant = Variant.parse(name)
    entry = OPTIMIZERS[variant.optimizer]
    if not entry.installed:
        pytest.skip(f"{entry.package} is not installed")
    optimizer = entry.build([("weights", x)], {**entry.settings, **variant.options})
    if variant.optimizer in AVERAGING:
        optimizer.train()
    return optimizer


def test_every_opponent_of_a_package_is_checked():
    assert set(REGISTERED) == {entry.name for entry in OPTIMIZERS.values() if entry.package != "multirate"}


@pytest.mark.parametrize("name", CASES)
def test_it_follows_its_paper(name):
    x = nn.Parameter(START.clone())
    optimizer = made(name, x)
    train(optimizer, x)
    expected = CASES[name]()
    if not isinstance(expected, tuple):
        expected = (expected,)
    assert (len(expected) == 2) == (name.partition(":")[0] in AVERAGING)
    for point in expected:
        torch.testing.assert_close(x.detach() - START, point - START, rtol=1e-9, atol=0.0)
        assert (point - START).abs().max() > 1e-6
        if len(expected) == 2:
            optimizer.eval()


@pytest.mark.parametrize("name", REGISTERED)
def test_a_run_resumed_from_its_state_dict_goes_on_exactly(name):
    x = nn.Parameter(START.clone())
    first = made(name, x)
    train(first, x, range(12))
    again = nn.Parameter(x.detach().clone())
    second = made(name, again)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    expected = train(first, x, range(12, STEPS))
    assert not torch.equal(again.detach(), expected)
    assert torch.equal(train(second, again, range(12, STEPS)), expected)


@pytest.mark.parametrize("name", [name for name in REGISTERED if name not in STATE_DICT_ONLY])
def test_a_run_resumed_from_a_pickle_goes_on_exactly(name):
    x = nn.Parameter(START.clone())
    optimizer = made(name, x)
    train(optimizer, x, range(12))
    again, second = pickle.loads(pickle.dumps((x, optimizer)))
    expected = train(optimizer, x, range(12, STEPS))
    assert torch.equal(train(second, again, range(12, STEPS)), expected)
