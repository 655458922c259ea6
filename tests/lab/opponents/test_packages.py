"""The packages that the lab compares with, against their papers' formulas."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

STEPS = 25
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


def adam_moments(weight_decay=0.0, beta1=0.9, beta2=0.999):
    """Return a function from gradient to (t, m, v), the moments without bias correction."""
    state = [0, torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)]

    def moments(g):
        state[0] += 1
        state[1] = beta1 * state[1] + (1 - beta1) * g
        state[2] = beta2 * state[2] + (1 - beta2) * g * g
        return state

    return moments


def sgd():
    x, h = START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        h = 0.9 * h + gradient(x, k)
        x = x - 0.05 * h
    return x


def sgd_nesterov():
    x, h = START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        g = gradient(x, k)
        h = 0.9 * h + g
        x = x - 0.05 * (g + 0.9 * h)
    return x


def adagrad():
    x, total = START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        g = gradient(x, k)
        total = total + g * g
        x = x - 0.05 * g / (total.sqrt() + 1e-10)
    return x


def rmsprop():
    x, v = START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        g = gradient(x, k)
        v = 0.99 * v + 0.01 * g * g
        x = x - 0.05 * g / (v.sqrt() + 1e-8)
    return x


def adam(decay=0.0):
    x, moments = START.clone(), adam_moments()
    for k in range(STEPS):
        t, m, v = moments(gradient(x, k))
        x = (1 - 0.05 * decay) * x - 0.05 * m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return x


def amsgrad():
    x, moments, largest = START.clone(), adam_moments(), torch.zeros_like(START)
    for k in range(STEPS):
        t, m, v = moments(gradient(x, k))
        largest = torch.maximum(largest, v)
        x = x - 0.05 * m / (1 - 0.9**t) / ((largest / (1 - 0.999**t)).sqrt() + 1e-8)
    return x


def radam():
    x, moments = START.clone(), adam_moments()
    longest = 2 / (1 - 0.999) - 1
    for k in range(STEPS):
        t, m, v = moments(gradient(x, k))
        length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
        update = m / (1 - 0.9**t)
        if length > 5:
            top, bottom = (length - 4) * (length - 2) * longest, (longest - 4) * (longest - 2) * length
            update = math.sqrt(top / bottom) * update * math.sqrt(1 - 0.999**t) / (v.sqrt() + 1e-8)
        x = x - 0.05 * update
    return x


def adabound():
    """Luo et al. 2019, with Adam's bias correction as in the authors' code."""
    x, moments = START.clone(), adam_moments()
    for k in range(STEPS):
        t, m, v = moments(gradient(x, k))
        rate = 0.05 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) / (v.sqrt() + 1e-8)
        lower, upper = 0.1 * (1 - 1 / (0.2 * t + 1)), 0.1 * (1 + 1 / (0.2 * t))
        x = x - rate.clamp(lower, upper) * m
    return x


def lookahead():
    """Zhang et al. 2019."""
    fast, slow, h = START.clone(), START.clone(), torch.zeros_like(START)
    for k in range(STEPS):
        h = 0.9 * h + gradient(fast, k)
        fast = fast - 0.05 * h
        if (k + 1) % 5 == 0:
            slow = slow + 0.5 * (fast - slow)
            fast = slow.clone()
    return fast


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


def schedule_free_sgd():
    """Defazio et al. 2024; returns x, where the model is evaluated."""
    x, z = START.clone(), START.clone()
    for k in range(STEPS):
        g = gradient(0.1 * z + 0.9 * x, k)
        z = z - 0.05 * g
        x = x + (z - x) / (k + 1)
    return x


def schedule_free_adamw():
    """Defazio et al. 2024, with weight decay 0.1 at y and 5 steps of warm-up."""
    x, z, v, total = START.clone(), START.clone(), torch.zeros_like(START), 0.0
    for k in range(STEPS):
        y = 0.1 * z + 0.9 * x
        g = gradient(y, k)
        v = 0.999 * v + 0.001 * g * g
        rate = 0.05 * min(1.0, (k + 1) / 5)
        total += rate**2
        z = z - rate * (g / ((v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8) + 0.1 * y)
        x = x + rate**2 / total * (z - x)
    return x


def dog():
    """Distance over gradients, Ivgi et al. 2023."""
    x, total, furthest = START.clone(), 1e-8, 1e-6 * (1 + float(START.norm()))
    for k in range(STEPS):
        g = gradient(x, k)
        furthest = max(furthest, float((x - START).norm()))
        total += float(g @ g)
        x = x - furthest / math.sqrt(total) * g
    return x


def mechanic():
    """Cutkosky et al. 2023 around SGD with rate 0.1, without decay (λ = 0)."""
    x, delta = START.clone(), torch.zeros_like(START)
    betas = [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999]
    s, v, reward, largest = ([value] * 6 for value in (0.0, 0.0, 0.0, 1e-6))
    for k in range(STEPS):
        g = gradient(x, k)
        h = float(delta @ g)
        delta = delta - 0.1 * g
        largest = [max(b * m, abs(h)) for b, m in zip(betas, largest, strict=True)]
        v = [b * b * value + h * h for b, value in zip(betas, v, strict=True)]
        reward = [max(0.0, b * r - scale * h) for b, r, scale in zip(betas, reward, s, strict=True)]
        wealth = [0.01 / 6 * m + r for m, r in zip(largest, reward, strict=True)]
        s = [w / (math.sqrt(value) + 1e-8) for w, value in zip(wealth, v, strict=True)]
        x = START + sum(s) * delta
    return x


def of_torch(name, **settings):
    return lambda params: getattr(torch.optim, name)(params, lr=0.05, **settings)


def of_package(package, name, **settings):
    return lambda params: getattr(pytest.importorskip(package), name)(params, **settings)


def lookahead_of_package(params):
    inner = torch.optim.SGD(params, lr=0.05, momentum=0.9)
    return pytest.importorskip("pytorch_optimizer").Lookahead(inner, k=5, alpha=0.5)


def mechanic_of_package(params):
    mechanize = pytest.importorskip("mechanic_pytorch").mechanize
    return mechanize(torch.optim.SGD, s_decay=0.0, s_init=0.01, store_delta=True)(params, lr=0.1)


METHODS = {
    "SGD": (of_torch("SGD", momentum=0.9), sgd),
    "SGDN": (of_torch("SGD", momentum=0.9, nesterov=True), sgd_nesterov),
    "AdaGrad": (of_torch("Adagrad"), adagrad),
    "RMSProp": (of_torch("RMSprop"), rmsprop),
    "Adam": (of_torch("Adam"), adam),
    "AMSGrad": (of_torch("Adam", amsgrad=True), amsgrad),
    "AdamW": (of_torch("AdamW", weight_decay=0.1), lambda: adam(decay=0.1)),
    "RAdam": (of_torch("RAdam"), radam),
    "AdaBound": (of_package("pytorch_optimizer", "AdaBound", lr=0.05, final_lr=0.1, gamma=0.2), adabound),
    "Lookahead": (lookahead_of_package, lookahead),
    "Prodigy": (of_package("prodigyopt", "Prodigy"), prodigy),
    "D-Adapt Adam": (of_package("dadaptation", "DAdaptAdam"), dadapt_adam),
    "D-Adapt SGD": (of_package("dadaptation", "DAdaptSGD", momentum=0.9), dadapt_sgd),
    "Schedule-Free SGD": (of_package("schedulefree", "SGDScheduleFree", lr=0.05), schedule_free_sgd),
    "Schedule-Free AdamW": (
        of_package("schedulefree", "AdamWScheduleFree", lr=0.05, weight_decay=0.1, warmup_steps=5),
        schedule_free_adamw,
    ),
    "DoG": (of_package("dog", "DoG"), dog),
    "Mechanic": (mechanic_of_package, mechanic),
}
# These keep a part of their state in attributes that torch's own pickling leaves out; their state_dict is whole.
STATE_DICT_ONLY = {"AdaBound", "Lookahead", "DoG"}


def made(name, x):
    optimizer = METHODS[name][0]([("weights", x)])
    if name.startswith("Schedule-Free"):
        optimizer.train()
    return optimizer


@pytest.mark.parametrize("name", METHODS)
def test_it_follows_its_paper(name):
    x = nn.Parameter(START.clone())
    optimizer = made(name, x)
    actual = train(optimizer, x)
    if name.startswith("Schedule-Free"):
        optimizer.eval()
    # Mechanic keeps its scales in single precision whatever the parameters' is.
    tolerance = 1e-4 if name == "Mechanic" else 1e-10
    expected = METHODS[name][1]()
    torch.testing.assert_close(actual - START, expected - START, rtol=tolerance, atol=0.0)
    assert (actual - START).abs().max() > 1e-6


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Mechanic"])
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


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Mechanic" and name not in STATE_DICT_ONLY])
def test_a_run_resumed_from_a_pickle_goes_on_exactly(name):
    x = nn.Parameter(START.clone())
    optimizer = made(name, x)
    train(optimizer, x, range(12))
    again, second = pickle.loads(pickle.dumps((x, optimizer)))
    expected = train(optimizer, x, range(12, STEPS))
    assert torch.equal(train(second, again, range(12, STEPS)), expected)


def test_mechanic_is_resumed_only_by_copying_it_with_its_parameters():
    x = nn.Parameter(START.clone())
    optimizer = made("Mechanic", x)
    train(optimizer, x, range(12))
    again, second = copy.deepcopy((x, optimizer))
    expected = train(optimizer, x, range(12, STEPS))
    assert torch.equal(train(second, again, range(12, STEPS)), expected)


def test_dogs_averager_weighs_by_polynomial_decay():
    package = pytest.importorskip("dog")
    model = nn.Linear(1, 1, bias=False)
    averager = package.PolynomialDecayAverager(model, gamma=8.0)
    expected = 0.0
    for t, value in enumerate([1.0, 3.0, -2.0, 5.0], start=1):
        nn.init.constant_(model.weight, value)
        averager.step()
        expected = (1 - 9 / (8 + t)) * expected + 9 / (8 + t) * value
    assert averager.averaged_model.weight.item() == pytest.approx(expected, rel=1e-6)
