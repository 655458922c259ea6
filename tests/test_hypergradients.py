"""Hypergradients against autograd, and Algorithm 1 against a loop over plain numbers."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn
from torch.func import functional_call

import multirate
from multirate import Level, MultiRate, rules
from multirate.adaptation import CAMHD, Additive

NAMES = ("global", "part", "layer", "unit", "parameter")
LEVELS = ("global", Level("part", lambda name: name.split(".")[0]), "layer", "unit", "parameter")
WEIGHTS = dict(zip(NAMES, (0.3, 0.1, 0.25, 0.15, 0.2), strict=True))
TOLERANCE = 1e-10

RULES = {
    "sgd": rules.SGD(),
    "sgd coupled decay": rules.SGD(weight_decay=0.1),
    "heavy ball": rules.SGD(momentum=0.9),
    "dampened": rules.SGD(momentum=0.9, dampening=0.5),
    "nesterov": rules.SGD(momentum=0.9, nesterov=True),
    "adam": rules.Adam(),
    "adam coupled decay": rules.Adam(weight_decay=0.1),
    "amsgrad": rules.Adam(amsgrad=True),
    "adamw": rules.Adam(weight_decay=0.1, decoupled_weight_decay=True),
    "rmsprop": rules.RMSprop(),
    "rmsprop momentum": rules.RMSprop(momentum=0.9),
    "rmsprop centered": rules.RMSprop(centered=True),
    "adagrad": rules.Adagrad(lr_decay=0.1),
    "radam": rules.RAdam(),
    "nadam": rules.NAdam(),
    "lion": rules.Lion(),
    "lion decay": rules.Lion(weight_decay=0.1),
    "adabound": rules.AdaBound(gamma=1e-7),  # bounds so wide that nothing is clipped
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh())
        self.head = nn.Linear(3, 2)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    return x, torch.stack([x.sum(1).sin(), x[:, 0] * x[:, 1]], dim=1)


def loss_at(model: nn.Module, parameters: dict[str, torch.Tensor], step: int) -> torch.Tensor:
    x, y = data(step)
    return (functional_call(model, parameters, (x,)) - y).square().mean()


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    loss_at(model, dict(model.named_parameters()), step).backward()
    optimizer.step()


def memberships(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """For each level and parameter the number of the node each element belongs to, worked out from names alone."""
    found: dict[str, dict[str, torch.Tensor]] = {level: {} for level in NAMES}
    numbers: dict[str, dict[object, int]] = {level: {} for level in NAMES}
    for name, p in model.named_parameters():
        layer = name.rpartition(".")[0]
        for level in NAMES:
            keys = []
            for e in range(p.numel()):
                row = e // (p.numel() // p.shape[0])
                key = {
                    "global": 0,
                    "part": name.split(".")[0],
                    "layer": layer,
                    "unit": (layer, row),
                    "parameter": (name, e),
                }[level]
                keys.append(numbers[level].setdefault(key, len(numbers[level])))
            found[level][name] = torch.tensor(keys).reshape(p.shape)
    return found


def flat(values: object) -> torch.Tensor:
    """Rates of one level as a vector over its nodes."""
    if isinstance(values, dict):
        return torch.cat([v.reshape(-1) for v in values.values()]).clone()
    assert isinstance(values, torch.Tensor)
    return values.reshape(-1).clone()


def all_rates(optimizer: MultiRate) -> dict[str, torch.Tensor]:
    shown = optimizer.rates()
    return {level: flat(shown[level]) for level in NAMES}


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    assert actual.shape == expected.shape
    error = float((actual - expected).abs().max()) / scale
    assert error <= tolerance, f"relative error {error}"


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def differentiated(
    model: nn.Module,
    before: dict[str, torch.Tensor],
    rates: dict[str, torch.Tensor],
    gammas: dict[str, torch.Tensor],
    step: int,
    rule: rules.Rule,
    sign: float = 1.0,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Hypergradients H and G by autograd, for the step from ``before`` to the model's present parameters.

    With α* = Σ γᵢ αᵢ the derivative −∂loss/∂αᵢ is γᵢ Hᵢ, and −∂loss/∂γᵢ is Gᵢ.
    """
    members = memberships(model)
    rates = {k: v.clone().requires_grad_() for k, v in rates.items()}
    gammas = {k: v.detach().clone().requires_grad_() for k, v in gammas.items()}
    decay = float(getattr(rule, "weight_decay", 0.0))
    decoupled = getattr(rule, "decoupled_weight_decay", False)
    moved, penalty = {}, torch.zeros((), dtype=torch.float64)
    for name, p in model.named_parameters():
        rate = sum(gammas[level] * rates[level][members[level][name]] for level in NAMES)
        fixed = rate.detach()
        start = before[name] * (1 - fixed * decay) if decoupled else before[name]
        direction = (start - p.detach()) / fixed
        moved[name] = start - rate * direction
        if not decoupled:
            penalty = penalty + 0.5 * decay * moved[name].square().sum()
    (sign * loss_at(model, moved, step) + penalty).backward()
    return {k: -v.grad / gammas[k].detach() for k, v in rates.items()}, {k: -v.grad for k, v in gammas.items()}


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("last", [2, 8])
@pytest.mark.parametrize("name", RULES)
def test_agreement_and_gain_are_minus_the_derivatives_of_the_loss(name, last, foreach):
    rule, model, beta, delta = RULES[name], Net(), 3e-4, 1e-3
    adaptation = CAMHD(initial_weights=WEIGHTS, hyper_lr=beta, weight_lr=delta)
    optimizer = MultiRate(model, 0.05, rule=rule, levels=LEVELS, adaptation=adaptation, foreach=foreach)
    for step in range(1, last - 1):
        take_step(model, optimizer, step)
    before, mixed_with = snapshot(model), optimizer.weights()
    take_step(model, optimizer, last - 1)
    rates, gammas = all_rates(optimizer), optimizer.weights()
    assert all(float(r.min()) > 0 for r in rates.values())
    H, G = differentiated(model, before, rates, mixed_with, last, rule)
    take_step(model, optimizer, last)

    for level in NAMES:
        if level != "parameter":
            close(flat(optimizer._memory[f"agreement.{level}"]), H[level])
            close(flat(optimizer.agreement()[level]), H[level])
        change = all_rates(optimizer)[level] - rates[level]
        close(change, (H[level] * beta * gammas[level]), 1e-9 if level == "parameter" else 1e-10)
    raised = {k: float(gammas[k] + delta * G[k]) for k in NAMES}
    assert all(v > 0 for v in raised.values())
    total = sum(raised.values())
    learned = optimizer.weights()
    for level in NAMES:
        assert float(learned[level]) == pytest.approx(raised[level] / total, rel=1e-12)
    inverted = torch.stack([(learned[k] * total - gammas[k]) / delta for k in NAMES])
    close(inverted, torch.stack([G[k] for k in NAMES]))


def test_clipped_weights_drop_what_falls_below_zero():
    model, rule = Net(), rules.Lion()
    adaptation = CAMHD(initial_weights=WEIGHTS, hyper_lr=0.0, weight_lr=0.1)
    optimizer = MultiRate(model, 0.5, rule=rule, levels=LEVELS, adaptation=adaptation)
    # One layer moves far, so that the gains of the levels differ.
    optimizer._memory["rate.layer"].copy_(torch.tensor([0.1, 0.2, 3.0]))
    optimizer._memory["rate.unit"].mul_(6.0)
    before, mixed_with = snapshot(model), optimizer.weights()
    take_step(model, optimizer, 1)
    _, G = differentiated(model, before, all_rates(optimizer), mixed_with, 2, rule)
    take_step(model, optimizer, 2)
    raised = [WEIGHTS[k] + 0.1 * float(G[k]) for k in NAMES]
    assert min(raised) < 0 < max(raised)
    kept = [max(v, 0.0) for v in raised]
    expected = [v / sum(kept) for v in kept]
    assert [float(v) for v in optimizer.weights().values()] == pytest.approx(expected, rel=1e-11, abs=0)


@pytest.mark.parametrize("last", [2, 4])
def test_maximizing_turns_the_sign_of_the_loss(last):
    rule, model = rules.Adam(), Net()
    adaptation = CAMHD(initial_weights=WEIGHTS, hyper_lr=1e-3, weight_lr=0.0)
    optimizer = MultiRate(model, 0.05, rule=rule, levels=LEVELS, adaptation=adaptation, maximize=True)
    for step in range(1, last - 1):
        take_step(model, optimizer, step)
    before = snapshot(model)
    take_step(model, optimizer, last - 1)
    H, _ = differentiated(model, before, all_rates(optimizer), optimizer.weights(), last, rule, sign=-1.0)
    take_step(model, optimizer, last)
    for level in NAMES[:-1]:
        close(flat(optimizer.agreement()[level]), H[level])


@pytest.mark.parametrize("level", LEVELS, ids=NAMES)
def test_one_level_alone(level):
    name = level if isinstance(level, str) else level.name
    rule, model, beta = rules.Adam(), Net(), 1e-3
    optimizer = MultiRate(model, 0.05, rule=rule, levels=(level,), adaptation=Additive(hyper_lr=beta))
    before = snapshot(model)
    take_step(model, optimizer, 1)
    rates = flat(optimizer.rates()[name])
    members = memberships(model)[name]
    start = rates.clone().requires_grad_()
    moved = {
        k: before[k] - start[members[k]] * ((before[k] - p.detach()) / rates[members[k]])
        for k, p in model.named_parameters()
    }
    loss_at(model, moved, 2).backward()
    take_step(model, optimizer, 2)
    close(flat(optimizer.rates()[name]) - rates, -beta * start.grad)


@pytest.mark.parametrize("amsbound", [False, True])
@pytest.mark.parametrize("paper_form", [False, True])
def test_clipped_adabound_is_differentiated_through_its_clip(paper_form, amsbound):
    model, lr = Net(), 0.01
    # Tight bounds, so that some elements are clipped from either side and some are not.
    rule = rules.AdaBound(final_lr=0.4, gamma=0.5, paper_form=paper_form, amsbound=amsbound, betas=(0.9, 0.6))
    optimizer = MultiRate(
        model, lr, rule=rule, levels=LEVELS, adaptation=CAMHD(initial_weights=WEIGHTS, hyper_lr=1e-6, weight_lr=0.0)
    )
    before = snapshot(model)
    take_step(model, optimizer, 1)
    gradients = {k: p.grad.clone() for k, p in model.named_parameters()}
    rates = {k: v.clone().requires_grad_() for k, v in all_rates(optimizer).items()}
    members, moved, clipped = memberships(model), {}, []
    c1, c2 = 1 - rule.betas[0], 1 - rule.betas[1]
    slack = 1 / (c2 + 1) if paper_form else None
    lower = rule.final_lr * (1 - (slack if slack else 1 / (rule.gamma + 1)))
    upper = rule.final_lr * (1 + (slack if slack else 1 / rule.gamma))
    for name, p in model.named_parameters():
        rate = sum(WEIGHTS[level] * rates[level][members[level][name]] for level in NAMES)
        g = gradients[name]
        m, v = c1 * g, c2 * g * g
        wanted = rate * (1.0 if paper_form else sqrt(c2) / c1) / (v.sqrt() + rule.eps)
        clipped.append(((wanted < lower) | (wanted > upper)).reshape(-1))
        moved[name] = before[name] - wanted.clamp(lower, upper) * m
        torch.testing.assert_close(moved[name].detach(), p.detach(), rtol=1e-12, atol=1e-14)
    some = torch.cat(clipped)
    assert some.any()
    assert not some.all()
    loss_at(model, moved, 2).backward()
    take_step(model, optimizer, 2)
    for level in NAMES[:-1]:
        close(flat(optimizer.agreement()[level]), -rates[level].grad / WEIGHTS[level])


# -- Algorithm 1 by an independent loop over lists of floats ---------------------------------------------------------


def gradient_of(theta: list[float], step: int) -> list[float]:
    """Gradient of ½ θᵀ A θ − bᵀ θ, with a b that changes with the step."""
    n = len(theta)
    A = [[2.0 if i == j else 0.5 / (1 + abs(i - j)) for j in range(n)] for i in range(n)]
    b = [0.1 * (i + 1) * (-1) ** step for i in range(n)]
    return [sum(A[i][j] * theta[j] for j in range(n)) - b[i] for i in range(n)]


def algorithm_1(theta, members, gammas, *, lr, beta, delta, mean, steps, adam=False):
    """Returns after every step (parameters, rates by level, weights)."""
    n = len(theta)
    theta, gammas = list(theta), list(gammas)
    alpha = [[lr] * (max(nodes) + 1) for nodes in members]
    m, v, previous, trail = [0.0] * n, [0.0] * n, None, []
    for t in range(1, steps + 1):
        g = gradient_of(theta, t)
        gains = [0.0] * len(members)
        if previous is not None:
            for i, nodes in enumerate(members):
                H = [0.0] * len(alpha[i])
                for e in range(n):
                    H[nodes[e]] += g[e] * previous[e] / (nodes.count(nodes[e]) if mean else 1)
                gains[i] = sum(a * h for a, h in zip(alpha[i], H, strict=True))
                alpha[i] = [max(a + beta * gammas[i] * h, 0.0) for a, h in zip(alpha[i], H, strict=True)]
        mixed = [sum(gammas[i] * alpha[i][members[i][e]] for i in range(len(members))) for e in range(n)]
        raised = [max(c + delta * G, 0.0) for c, G in zip(gammas, gains, strict=True)]
        gammas = [c / sum(raised) for c in raised]
        if adam:
            m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
            v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
            d = [m[e] / (1 - 0.9**t) / (sqrt(v[e] / (1 - 0.999**t)) + 1e-8) for e in range(n)]
        else:
            d = g
        theta = [theta[e] - mixed[e] * d[e] for e in range(n)]
        previous = d
        trail.append((list(theta), [list(a) for a in alpha], list(gammas)))
    return trail


def compare_with_the_loop(make, sizes, members, gammas, levels, **options):
    start = [1.0 - 0.7 * i for i in range(sum(sizes))]
    pieces, cursor = [], 0
    for k, size in enumerate(sizes):
        pieces.append(
            (f"layer{k}.weight", nn.Parameter(torch.tensor(start[cursor : cursor + size], dtype=torch.float64)))
        )
        cursor += size
    optimizer = make(pieces)
    steps = 3
    trail = algorithm_1(start, members, gammas, steps=steps, **options)
    for t in range(1, steps + 1):
        theta = torch.cat([p.detach() for _, p in pieces]).tolist()
        g, cursor = gradient_of(theta, t), 0
        for _, p in pieces:
            p.grad = torch.tensor(g[cursor : cursor + p.numel()], dtype=torch.float64)
            cursor += p.numel()
        optimizer.step()
        theta, rates, weights = trail[t - 1]
        assert torch.cat([p.detach() for _, p in pieces]).tolist() == pytest.approx(theta, rel=1e-12, abs=1e-14)
        for level, expected in zip(levels, rates, strict=True):
            assert flat(optimizer.rates()[level]).tolist() == pytest.approx(expected, rel=1e-12)
        if len(levels) > 1:
            assert [float(w) for w in optimizer.weights().values()] == pytest.approx(weights, rel=1e-12)
    first, last = trail[0], trail[-1]
    assert first[1] != last[1]


CASES = {
    "two parameters": ((1, 1), [0, 1]),
    "three parameters": ((2, 1), [0, 0, 1]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_sgd_camhd_is_algorithm_1(case, reduction):
    sizes, layers = CASES[case]
    beta, delta, lr = 0.02, 0.3, 0.1
    compare_with_the_loop(
        lambda p: multirate.SGDCAMHD(
            p, lr, hyper_lr=beta, weight_lr=delta, weights=(0.3, 0.7), levels=("global", "layer"), reduction=reduction
        ),
        sizes,
        [[0] * sum(sizes), layers],
        [0.3, 0.7],
        ("global", "layer"),
        lr=lr,
        beta=beta,
        delta=delta,
        mean=reduction == "mean",
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_adam_camhd_is_algorithm_1_with_three_levels(reduction):
    compare_with_the_loop(
        lambda p: multirate.AdamCAMHD(
            p,
            0.1,
            hyper_lr=0.01,
            weight_lr=0.2,
            weights=(0.5, 0.2, 0.3),
            levels=("global", "layer", "parameter"),
            reduction=reduction,
        ),
        (2, 1),
        [[0, 0, 0], [0, 0, 1], [0, 1, 2]],
        [0.5, 0.2, 0.3],
        ("global", "layer", "parameter"),
        lr=0.1,
        beta=0.01,
        delta=0.2,
        mean=reduction == "mean",
        adam=True,
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("adam", [False, True])
def test_hd_is_algorithm_1_with_one_level(case, reduction, adam):
    sizes, _ = CASES[case]
    cls = multirate.AdamHD if adam else multirate.SGDHD
    compare_with_the_loop(
        lambda p: cls(p, 0.05, hyper_lr=0.01, reduction=reduction),
        sizes,
        [[0] * sum(sizes)],
        [1.0],
        ("global",),
        lr=0.05,
        beta=0.01,
        delta=0.0,
        mean=reduction == "mean",
        adam=adam,
    )


def test_a_rate_driven_below_zero_stops_there():
    compare_with_the_loop(
        lambda p: multirate.SGDCAMHD(
            p, 0.9, hyper_lr=0.5, weight_lr=0.0, weights=(0.5, 0.5), levels=("global", "layer")
        ),
        (1, 1),
        [[0, 0], [0, 1]],
        [0.5, 0.5],
        ("global", "layer"),
        lr=0.9,
        beta=0.5,
        delta=0.0,
        mean=False,
    )
