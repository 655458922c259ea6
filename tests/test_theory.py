"""What the theory says of rates, held against the library to rounding error."""

from __future__ import annotations

from itertools import pairwise
from math import exp, inf, isfinite, nan, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import multirate
from multirate import MultiRate, Transition, rules
from multirate.adaptation import (
    CAMHD,
    AdamStep,
    Additive,
    LogRates,
    Momentum,
    Multiplicative,
    Plain,
    Regularized,
    Sign,
)


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, t: int) -> None:
    generator = torch.Generator().manual_seed(t)
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    optimizer.zero_grad()
    (model(x) - x[:, :2].sin()).square().mean().backward()
    optimizer.step()


def vector(values: object) -> torch.Tensor:
    if isinstance(values, dict):
        return torch.cat([v.reshape(-1) for v in values.values()]).clone()
    assert isinstance(values, torch.Tensor)
    return values.reshape(-1).clone()


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


UNIT_LAYER = torch.tensor([0, 0, 0, 0, 1, 1])
"""The layer of each unit of the model above."""

SAME = {"rtol": 1e-12, "atol": 1e-15}


# -- regularised rates (Theorem 1) -----------------------------------------------------------------------------------


def test_virtual_form_is_a_combination_with_weights_two_beta_lambda():
    beta, to_layer, to_global = 1e-2, 10.0, 15.0
    gammas = {"global": 2 * beta * to_global, "layer": 2 * beta * to_layer}
    gammas["unit"] = 1.0 - sum(gammas.values())
    levels = ("global", "layer", "unit")
    virtual = Regularized(
        penalty={("unit", "layer"): to_layer, ("unit", "global"): to_global}, form="virtual", hyper_lr=beta
    )
    # Divided by its weight, a level's own step is β H, the one of the unpenalised rate.
    mixed = CAMHD(initial_weights=gammas, hyper_lr={k: beta / g for k, g in gammas.items()}, weight_lr=0.0)
    applied = []
    for adaptation in (virtual, mixed):
        model = model_of()
        optimizer = MultiRate(model, 0.1, rule=rules.SGD(), levels=levels, adaptation=adaptation)
        for t in (1, 2):
            take_step(model, optimizer, t)
        applied.append((optimizer.applied_rates(), flat(model), optimizer.agreement()))
    (first, parameters, H), (second, others, _) = applied
    for name in first:
        torch.testing.assert_close(first[name], second[name], **SAME)
    torch.testing.assert_close(parameters, others, **SAME)
    # ... and both are what the formula says.
    hat = {level: 0.1 + beta * vector(H[level]) for level in levels}
    expected = (
        gammas["unit"] * hat["unit"] + gammas["layer"] * hat["layer"][UNIT_LAYER] + gammas["global"] * hat["global"]
    )
    weights = torch.cat([first["0.weight"].reshape(-1), first["2.weight"].reshape(-1)])
    torch.testing.assert_close(weights, expected, **SAME)


def run_regularized(steps: int, **options: object) -> list[dict[str, torch.Tensor]]:
    """For every measured step the rates before, the agreement and the rates after."""
    model = model_of()
    optimizer = MultiRate(
        model, 0.1, rule=rules.SGD(), levels=("global", "layer", "unit"), adaptation=Regularized(**options)
    )
    trail = []
    take_step(model, optimizer, 1)
    for t in range(2, steps + 1):
        old = {k: vector(v) for k, v in optimizer.rates().items()}
        take_step(model, optimizer, t)
        new = {k: vector(v) for k, v in optimizer.rates().items()}
        H = {k: vector(v) for k, v in optimizer.agreement().items()}
        trail.append({f"{what} {k}": v for what, d in (("old", old), ("new", new), ("H", H)) for k, v in d.items()})
    return trail


PENALTY = {("layer", "global"): 4.0, ("unit", "global"): 7.0, ("unit", "layer"): 11.0}


@pytest.mark.parametrize("time_penalty", [0.0, 5.0])
@pytest.mark.parametrize("form", ["exact", "virtual", "last_step"])
def test_every_form_is_its_formula_in_every_step(form, time_penalty):
    if form == "last_step" and time_penalty:
        with pytest.raises(ValueError, match="time_penalty"):
            run_regularized(2, form=form, time_penalty=time_penalty)
        return
    beta = 0.01
    up = {"global": {}, "layer": {"global": torch.tensor([0, 0])}}
    up["unit"] = {"global": torch.zeros(6, dtype=torch.long), "layer": UNIT_LAYER}
    for s in run_regularized(6, form=form, time_penalty=time_penalty, penalty=PENALTY, hyper_lr=beta):
        hat = {k: s[f"old {k}"] + beta * s[f"H {k}"] for k in up}
        for level, parents in up.items():
            pull = {j: 2 * beta * PENALTY[level, j] for j in parents}
            time = 2 * beta * time_penalty if level == "global" else 0.0
            total = sum(pull.values()) + time
            if form == "exact":
                expected = hat[level] + time * s[f"old {level}"]
                expected = expected + sum(pull[j] * s[f"new {j}"][parents[j]] for j in parents)
                expected = expected / (1 + total)
            elif form == "virtual":
                expected = (1 - total) * hat[level] + time * s[f"old {level}"]
                expected = expected + sum(pull[j] * hat[j][parents[j]] for j in parents)
            else:
                gap = sum(pull[j] * (s[f"old {level}"] - s[f"old {j}"][parents[j]]) for j in parents)
                expected = hat[level] - gap
            torch.testing.assert_close(s[f"new {level}"], expected, **SAME)


def test_exact_form_has_no_gradient_of_the_penalised_objective_left():
    beta = 0.01
    for s in run_regularized(4, form="exact", penalty=PENALTY, hyper_lr=beta):
        rate = s["new unit"].clone().requires_grad_()
        hat = s["old unit"] + beta * s["H unit"]
        parents = {"global": s["new global"], "layer": s["new layer"][UNIT_LAYER]}
        penalty = sum(PENALTY["unit", j] * (rate - parents[j]).square().sum() for j in parents)
        ((rate - hat).square().sum() / (2 * beta) + penalty).backward()
        assert float(rate.grad.abs().max()) < 1e-11


@pytest.mark.parametrize("strength", [0.1, 5.0, 40.0])
def test_error_of_the_virtual_form_with_two_levels(strength):
    beta = 0.01
    rates = {}
    for form in ("exact", "virtual"):
        model = model_of()
        optimizer = MultiRate(
            model,
            0.1,
            rule=rules.SGD(),
            levels=("global", "layer"),
            adaptation=Regularized(form=form, penalty=strength, hyper_lr=beta),
        )
        for t in (1, 2):
            take_step(model, optimizer, t)
        rates[form] = {k: vector(v) for k, v in optimizer.rates().items()}
    assert torch.equal(rates["exact"]["global"], rates["virtual"]["global"])
    error = rates["virtual"]["layer"] - rates["exact"]["layer"]
    expected = -((2 * beta * strength) ** 2) * (rates["exact"]["layer"] - rates["exact"]["global"])
    assert expected.abs().max() > 1e-10
    torch.testing.assert_close(error, expected, rtol=1e-9, atol=1e-16)


def test_an_infinitely_strong_penalty_leaves_one_rate():
    one, many = model_of(), model_of()
    baydin = multirate.SGDHD(one, 0.1, hyper_lr=0.01)
    tied = MultiRate(
        many,
        0.1,
        rule=rules.SGD(),
        levels=("global", "layer", "unit", "parameter"),
        adaptation=Regularized(form="exact", penalty=1e17, hyper_lr=0.01),
    )
    for t in range(1, 15):
        take_step(one, baydin, t)
        take_step(many, tied, t)
        rate = float(baydin.rates()["global"])
        for values in tied.rates().values():
            torch.testing.assert_close(vector(values), torch.full_like(vector(values), rate), **SAME)
        torch.testing.assert_close(flat(one), flat(many), **SAME)
    assert rate != 0.1


def test_an_infinitely_strong_time_penalty_leaves_a_fixed_rate():
    fixed, tied = model_of(), model_of()
    sgd = torch.optim.SGD(fixed.parameters(), lr=0.1)
    optimizer = MultiRate(
        tied,
        0.1,
        rule=rules.SGD(),
        levels=("global", "layer"),
        adaptation=Regularized(form="exact", penalty=1e19, time_penalty=1e19, hyper_lr=0.01),
    )
    for t in range(1, 15):
        take_step(fixed, sgd, t)
        take_step(tied, optimizer, t)
    for values in optimizer.rates().values():
        torch.testing.assert_close(vector(values), torch.full_like(vector(values), 0.1), **SAME)
    torch.testing.assert_close(flat(fixed), flat(tied), **SAME)


# -- transition to a fixed rate (Theorems 2 and 3) -------------------------------------------------------------------


@pytest.mark.parametrize("final", [None, 0.04])
def test_transition_mixes_learned_and_final_rate(final):
    r, lr = 0.3, 0.1
    model = model_of()
    optimizer = multirate.SGDCAMHD(
        model, lr, hyper_lr=0.01, levels=("global", "layer"), transition=Transition(r, final)
    )
    limit, previous = final or lr, None
    for t in range(1, 12):
        before = flat(model)
        take_weights = optimizer.weights()
        take_step(model, optimizer, t)
        tau = exp(-r * t)
        rates, applied = optimizer.rates(), optimizer.applied_rates()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        change = []
        for name, p in model.named_parameters():
            layer = name.split(".")[0]
            levels = {"global": rates["global"], "layer": rates["layer"][layer]}
            now = sum(optimizer.weights()[k] * v for k, v in levels.items())
            shown = torch.as_tensor(applied[name]).expand_as(p)
            torch.testing.assert_close(shown, (tau * now + (1 - tau) * limit).expand_as(p), **SAME)
            used = sum(take_weights[k] * v for k, v in levels.items())
            change.append(((tau * used + (1 - tau) * limit) * gradients[name]).reshape(-1))
        torch.testing.assert_close(flat(model), before - torch.cat(change), **SAME)
        if previous is not None:
            # The displacement being judged carried the factor τ of its own step.
            product = sum(float((gradients[n] * previous[n]).sum()) for n in gradients)
            assert float(optimizer.agreement()["global"]) == pytest.approx(exp(-r * (t - 1)) * product, rel=1e-12)
        previous = gradients


@pytest.mark.parametrize("start", [0.02, 0.15, 0.3])
def test_converges_on_a_convex_quadratic_once_the_rate_is_fixed(start):
    curvature = torch.tensor([10.0, 4.0, 1.0, 0.5], dtype=torch.float64)
    final, mu, switch, steps = 0.09, 0.5, 300, 900
    assert final < 1 / float(curvature.max())
    a, b = nn.Parameter(torch.ones(2, dtype=torch.float64)), nn.Parameter(-torch.ones(2, dtype=torch.float64))
    optimizer = multirate.SGDCAMHD(
        [("first.weight", a), ("second.weight", b)],
        start,
        hyper_lr=1e-4,
        weight_lr=1e-4,
        levels=("global", "parameter"),
        transition=Transition(0.1, final),
    )
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.5 * (curvature * torch.cat([a, b]).square()).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert all(isfinite(x) for x in losses)
    for t in range(switch, steps):
        assert losses[t] <= (1 - mu * final) ** (t - switch) * losses[switch] * (1 + 1e-9)
    assert all(after <= before for before, after in pairwise(losses[switch:]))
    assert losses[-1] <= 1e-12


# -- weights ---------------------------------------------------------------------------------------------------------


def test_softmax_weights_follow_their_gradient():
    levels, delta, lr = ("global", "layer", "unit"), 0.5, 0.1
    model = model_of()
    adaptation = CAMHD(initial_weights=(0.2, 0.5, 0.3), hyper_lr=0.01, weight_lr=delta, normalization="softmax")
    optimizer = MultiRate(model, lr, rule=rules.SGD(), levels=levels, adaptation=adaptation)
    assert [float(w) for w in optimizer.weights().values()] == pytest.approx([0.2, 0.5, 0.3], rel=1e-14)
    take_step(model, optimizer, 1)
    for t in range(2, 6):
        logits = torch.cat([optimizer._memory[f"weight.{k}"] for k in levels]).clone()
        rates = {k: vector(v) for k, v in optimizer.rates().items()}
        directions = {n: p.grad.clone() for n, p in model.named_parameters()}
        take_step(model, optimizer, t)
        c = logits.clone().requires_grad_()
        gamma = torch.softmax(c, 0)
        # To first order the loss changes by −Σ g ⊙ α*(c) ⊙ d.
        change = torch.zeros((), dtype=torch.float64)
        for name, p in model.named_parameters():
            layer = 0 if name.startswith("0") else 1
            units = rates["unit"][layer == UNIT_LAYER]
            units = units.reshape(-1, *[1] * (p.dim() - 1))
            rate = gamma[0] * rates["global"] + gamma[1] * rates["layer"][layer] + gamma[2] * units
            change = change - (p.grad * rate * directions[name]).sum()
        change.backward()
        # While the rates of all levels are equal the mix does not matter.
        assert (float(c.grad.abs().max()) > 1e-8) == (t > 2)
        learned = torch.cat([optimizer._memory[f"weight.{k}"] for k in levels])
        torch.testing.assert_close(learned, logits - delta * c.grad, rtol=1e-13, atol=1e-15)
        shown = torch.stack(list(optimizer.weights().values()))
        torch.testing.assert_close(shown, torch.softmax(learned, 0), **SAME)
        assert float(shown.sum()) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("normalization", ["clip", "softmax"])
def test_weights_of_each_layer_against_a_loop(reduction, normalization):
    # Two layers: elements 0 to 2 and 3 to 4.
    layer, n = [0, 0, 0, 1, 1], 5
    members = {"global": [0] * n, "layer": layer, "parameter": list(range(n))}
    lr, beta, delta = 0.1, 0.02, 0.4
    start = {"global": 0.5, "layer": 0.2, "parameter": 0.3}
    p = nn.Parameter(torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64))
    q = nn.Parameter(torch.tensor([0.8, 2.0], dtype=torch.float64))
    optimizer = multirate.SGDCAMHD(
        [("first.weight", p), ("second.weight", q)],
        lr,
        hyper_lr=beta,
        weight_lr=delta,
        weights=tuple(start.values()),
        levels=tuple(members),
        weight_level="layer",
        reduction=reduction,
        normalization=normalization,
    )
    theta = [*p.tolist(), *q.tolist()]
    alpha = {k: [lr] * (max(m) + 1) for k, m in members.items()}
    gamma = {k: [start[k]] * 2 for k in members}
    previous = None
    for t in range(1, 6):
        g = [(1.0 + 0.3 * e) * theta[e] + 0.1 * (-1) ** (t + e) for e in range(n)]
        gains = {k: [0.0, 0.0] for k in members}
        if previous is not None:
            for k, nodes in members.items():
                steps = [0.0] * len(alpha[k])
                for e in range(n):
                    h = g[e] * previous[e] / (nodes.count(nodes[e]) if reduction == "mean" else 1)
                    gains[k][layer[e]] += alpha[k][nodes[e]] * h
                    steps[nodes[e]] += gamma[k][layer[e]] * h
                alpha[k] = [max(a + beta * s, 0.0) for a, s in zip(alpha[k], steps, strict=True)]
        mixed = [sum(gamma[k][layer[e]] * alpha[k][members[k][e]] for k in members) for e in range(n)]
        for w in range(2):
            if normalization == "clip":
                raised = {k: max(gamma[k][w] + delta * gains[k][w], 0.0) for k in members}
            else:
                mean = sum(gamma[k][w] * gains[k][w] for k in members)
                # Adding to a logit multiplies its weight.
                raised = {k: gamma[k][w] * exp(delta * gamma[k][w] * (gains[k][w] - mean)) for k in members}
            for k in members:
                gamma[k][w] = raised[k] / sum(raised.values())
        theta = [theta[e] - mixed[e] * g[e] for e in range(n)]
        previous = g
        p.grad = torch.tensor(g[:3], dtype=torch.float64)
        q.grad = torch.tensor(g[3:], dtype=torch.float64)
        optimizer.step()
        assert [*p.tolist(), *q.tolist()] == pytest.approx(theta, rel=1e-12)
        for k in members:
            assert vector(optimizer.rates()[k]).tolist() == pytest.approx(alpha[k], rel=1e-12)
            assert vector(optimizer.weights()[k]).tolist() == pytest.approx(gamma[k], rel=1e-12)
    assert gamma["layer"][0] != pytest.approx(gamma["layer"][1], rel=1e-6)


# -- the step on a rate ----------------------------------------------------------------------------------------------


def by_hand(step: object, products: list[float]) -> list[float]:
    """The steps that a list of hypergradients becomes."""
    out, b, m, v = [], 0.0, 0.0, 0.0
    for t, h in enumerate(products, 1):
        b = 0.7 * b + h
        m, v = 0.8 * m + 0.2 * h, 0.95 * v + 0.05 * h * h
        if isinstance(step, Momentum):
            out.append(b)
        elif isinstance(step, AdamStep):
            out.append(m / (1 - 0.8**t) / (sqrt(v / (1 - 0.95**t)) + 1e-6))
        elif isinstance(step, Sign):
            out.append(0.0 if h == 0 else 1.0 if h > 0 else -1.0)
        else:
            out.append(h)
    return out


@pytest.mark.parametrize("level", ["global", "parameter"])
@pytest.mark.parametrize(
    "step", [Plain(), Sign(), Momentum(0.7), AdamStep((0.8, 0.95), 1e-6)], ids=lambda s: type(s).__name__
)
def test_steps_are_what_a_hand_computes(step, level):
    gradients = [1.0, 0.5, -2.0, 0.25, 0.0, 3.0, 1.5]
    lr, beta = 1.0, 0.01
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = MultiRate(
        [("x.weight", p)], lr, rule=rules.SGD(), levels=(level,), adaptation=Additive(hyper_lr=beta, step=step)
    )
    products = [b * a for a, b in pairwise(gradients)]
    expected, rates = lr, [lr]
    for s in by_hand(step, products):
        expected += beta * s
        rates.append(expected)
    for g, rate in zip(gradients, rates, strict=True):
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        assert float(vector(optimizer.rates()[level])) == pytest.approx(rate, rel=1e-12)


# -- rates stay usable, whatever comes -------------------------------------------------------------------------------


ADAPTATIONS = {
    "camhd": CAMHD(hyper_lr=0.1),
    "camhd softmax": CAMHD(hyper_lr=0.1, normalization="softmax"),
    "camhd mean": CAMHD(hyper_lr=0.1, reduction="mean"),
    "camhd layers": CAMHD(hyper_lr=0.1, weight_level="layer"),
    "camhd momentum": CAMHD(hyper_lr=0.1, step=Momentum()),
    "camhd adam": CAMHD(hyper_lr=0.1, step=AdamStep()),
    "additive": Additive(hyper_lr=0.1),
    "additive sign": Additive(hyper_lr=0.1, step=Sign()),
    "multiplicative": Multiplicative(hyper_lr=1.5),
    "regularized": Regularized(hyper_lr=0.1),
    "virtual": Regularized(hyper_lr=0.1, penalty=1.0, form="virtual"),
    "last step": Regularized(hyper_lr=0.1, penalty=10.0, form="last_step"),
    "log rates": LogRates(hyper_lr=1.0),
    "log rates short": LogRates(hyper_lr=1.0, trace=0.0, step=AdamStep()),
}

numbers = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 1e30, -1e30, 1e19, -1e19, inf, -inf, nan, 1e-45]),
    st.floats(-10, 10, width=32),
)


@pytest.mark.parametrize("rule", [rules.SGD(), rules.Adam(), rules.Lion()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("name", ADAPTATIONS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    gradients=st.lists(st.lists(numbers, min_size=5, max_size=5), min_size=2, max_size=6),
    # In double precision the reference is enough: compiling is most of what this takes.
    kind=st.sampled_from([(torch.float32, None), (torch.float32, False), (torch.float64, False)]),
)
def test_rates_are_never_negative_or_infinite(name, rule, gradients, kind):
    dtype, foreach = kind
    p, q = nn.Parameter(torch.ones(3, 1, dtype=dtype)), nn.Parameter(torch.ones(2, 1, dtype=dtype))
    optimizer = MultiRate(
        [("first.weight", p), ("second.weight", q)],
        0.01,
        rule=rule,
        levels=("global", "layer", "parameter"),
        adaptation=ADAPTATIONS[name],
        foreach=foreach,
    )
    skipped = 0
    for row in gradients:
        g = torch.tensor(row, dtype=dtype)
        skipped += not bool(g.isfinite().all())
        p.grad, q.grad = g[:3].reshape(3, 1).clone(), g[3:].reshape(2, 1).clone()
        optimizer.step()
        for shown in (*optimizer.rates().values(), optimizer.applied_rates()):
            values = vector(shown)
            assert values.isfinite().all(), values
            assert (values >= 0).all(), values
        weights = [vector(v) for v in optimizer.weights().values()]
        if weights:
            stacked = torch.stack(weights)
            assert stacked.isfinite().all()
            assert (stacked >= 0).all()
            torch.testing.assert_close(stacked.sum(0), torch.ones_like(stacked[0]), rtol=1e-5, atol=1e-5)
    assert int(optimizer.skipped_steps) >= skipped
