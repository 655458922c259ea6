import copy
import math
import pickle

import pytest
import torch
from torch import nn

from multirate.lab.opponents.meta_optimize import MetaOptimize

STEPS = 30
SIZES = [2, 3, 1]


def fresh():
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(size, dtype=torch.float64, generator=generator)) for size in SIZES]


def gradients():
    generator = torch.Generator().manual_seed(4)
    drift = [torch.randn(size, dtype=torch.float64, generator=generator) for size in SIZES]
    return [
        [d + 0.5 * torch.randn(d.shape, dtype=torch.float64, generator=generator) for d in drift] for _ in range(STEPS)
    ]


def train(optimizer, parameters, steps):
    for step in steps:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def by_loops(base, meta, members, lr, meta_lr, discount, decay):
    """Algorithm 3, number by number."""
    momentum = {"sgd": 0.9, "adamw": 0.9, "lion": 0.99}[base]
    meta_momentum = {"sgd": 0.0, "adam": 0.9, "lion": 0.99}[meta]
    owner = [block for block, size in zip(members, SIZES, strict=True) for _ in range(size)]
    w = torch.cat([p.detach() for p in fresh()]).tolist()
    count, blocks = len(w), max(members) + 1
    m, v, h = [0.0] * count, [0.0] * count, [0.0] * count
    beta = [math.log(lr)] * blocks
    meta_m, meta_v = [0.0] * blocks, [0.0] * blocks
    for t, step in enumerate(gradients(), start=1):
        g = torch.cat(step).tolist()
        z = [sum(h[i] * g[i] for i in range(count) if owner[i] == block) for block in range(blocks)]
        for i in range(count):
            alpha = math.exp(beta[owner[i]])
            old = m[i]
            m[i] = momentum * m[i] + (1 - momentum) * g[i]
            v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
            if base == "sgd":
                update = old
            elif base == "lion":
                update = math.copysign(1.0, 0.9 * old + 0.1 * g[i])
            else:
                update = m[i] / (1 - 0.9**t) / math.sqrt(v[i] / (1 - 0.999**t) + 1e-10)
            change = -alpha * (update + decay * w[i])
            w[i] += change
            h[i] = discount * (1 - decay * alpha) * h[i] + change
        for block in range(blocks):
            old = meta_m[block]
            meta_m[block] = meta_momentum * old + (1 - meta_momentum) * z[block]
            meta_v[block] = 0.999 * meta_v[block] + 0.001 * z[block] ** 2
            if meta == "sgd":
                move = z[block]
            elif meta == "lion":
                mixed = 0.9 * old + 0.1 * z[block]
                move = math.copysign(1.0, mixed) if mixed else 0.0
            else:
                move = meta_m[block] / (1 - 0.9**t) / math.sqrt(meta_v[block] / (1 - 0.999**t) + 1e-10)
            beta[block] -= meta_lr * move
    return w, [math.exp(b) for b in beta]


@pytest.mark.parametrize("base", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize("meta", ["sgd", "adam", "lion"])
@pytest.mark.parametrize(("blocks", "members"), [("scalar", [0, 0, 0]), ("tensor", [0, 1, 2]), ([2, 1], [0, 0, 1])])
def test_it_follows_algorithm_3(base, meta, blocks, members):
    parameters = fresh()
    options = {"lr": 0.01, "meta_lr": 0.02, "discount": 0.95, "weight_decay": 0.1}
    optimizer = MetaOptimize(parameters, base=base, meta=meta, blocks=blocks, **options)
    train(optimizer, parameters, gradients())
    w, rates = by_loops(base, meta, members, 0.01, 0.02, 0.95, 0.1)
    actual = torch.cat([p.detach() for p in parameters])
    torch.testing.assert_close(actual, torch.tensor(w, dtype=torch.float64), rtol=1e-10, atol=1e-13)
    applied = torch.stack(list(optimizer.applied_rates().values()))
    expected = torch.tensor([rates[member] for member in members], dtype=torch.float64)
    torch.testing.assert_close(applied, expected, rtol=1e-10, atol=0.0)
    assert abs(math.log(rates[0] / 0.01)) > 1e-3


def test_without_discount_the_meta_gradient_is_the_hypergradient():
    # γ = 0: h is the last change alone.
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = MetaOptimize([w], lr=0.1, base="lion", meta="sgd", meta_lr=0.5, discount=0.0)
    w.grad = torch.tensor([3.0, -1.0], dtype=torch.float64)
    optimizer.step()
    w.grad = torch.tensor([2.0, 4.0], dtype=torch.float64)
    optimizer.step()
    # The first change is −0.1·(1, −1), its inner product with (2, 4) is 0.2, and β falls by half of that.
    assert optimizer.applied_rates()["0"].item() == pytest.approx(0.1 * math.exp(-0.5 * 0.2), rel=1e-12)


def test_layers_share_a_step_size():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    optimizer = MetaOptimize(list(model.named_parameters()), lr=0.01, blocks="layer")
    assert optimizer.param_groups[0]["members"] == [0, 0, 1, 1]
    assert list(optimizer.applied_rates()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_schedule_multiplies_what_is_learned():
    parameters = fresh()
    optimizer = MetaOptimize(parameters, lr=0.01, meta_lr=0.02)
    train(optimizer, parameters, gradients())
    before = optimizer.applied_rates()["0"].item()
    optimizer.param_groups[0]["lr"] = 0.005
    assert optimizer.applied_rates()["0"].item() == pytest.approx(before / 2, rel=1e-12)


def test_a_parameter_without_gradient_stays():
    parameters = fresh()
    optimizer = MetaOptimize(parameters, lr=0.01, blocks="tensor", meta_lr=0.02)
    for step in gradients()[:3]:
        for parameter, gradient in zip(parameters[:2], step[:2], strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(parameters[2], fresh()[2])
    rates = optimizer.applied_rates()
    assert rates["2"] == 0.01
    assert rates["0"] != 0.01


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state_dict"])
@pytest.mark.parametrize(("base", "meta"), [("adamw", "adam"), ("sgd", "lion")])
def test_a_resumed_run_goes_on_exactly(way, base, meta):
    options = {"lr": 0.01, "meta_lr": 0.02, "base": base, "meta": meta, "blocks": "tensor"}
    whole = fresh()
    first = MetaOptimize(whole, **options)
    train(first, whole, gradients()[:13])
    if way == "pickle":
        parameters, optimizer = pickle.loads(pickle.dumps((whole, first)))
    elif way == "deepcopy":
        parameters, optimizer = copy.deepcopy((whole, first))
    else:
        parameters = [nn.Parameter(p.detach().clone()) for p in whole]
        optimizer = MetaOptimize(parameters, **options)
        optimizer.load_state_dict(copy.deepcopy(first.state_dict()))
    train(first, whole, gradients()[13:])
    assert not torch.equal(parameters[0], whole[0])
    train(optimizer, parameters, gradients()[13:])
    for resumed, expected in zip(parameters, whole, strict=True):
        assert torch.equal(resumed, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "adam"}, "base must be one of"),
        ({"meta": "adamw"}, "meta must be one of"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"meta_sign_mix": -0.1}, "meta_sign_mix must be"),
        ({"discount": 1.1}, "discount must be"),
        ({"meta_lr": 0.0}, "meta_lr must be"),
        ({"weight_decay": -1.0}, "weight_decay must not"),
        ({"blocks": "layer"}, "without names"),
        ({"blocks": "model"}, "blocks must be"),
        ({"blocks": [1, 1]}, "sum to 3"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        MetaOptimize(fresh(), **options)
