"""Averaged iterates with distance rates: against plain loops, and where the parameters are at every moment."""

import copy
import gc
import io
import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import multirate
from multirate import rules
from multirate.adaptation import DistanceRates
from multirate.averaged import Averaged

GAIN, LEAK, KAPPA = 2.2, 0.02, 3.0


def a_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def a_loss(model: nn.Module, t: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(t)
    x = torch.randn(size, 4, generator=generator, dtype=torch.float64).to(next(model.parameters()).dtype)
    return (model(x) - torch.stack([x[:, 0] * x[:, 1], x.sum(1)], 1)).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0, size: int = 16) -> None:
    for t in range(start, start + steps):
        optimizer.zero_grad()
        a_loss(model, t, size).backward()
        optimizer.step()


def held_out(model: nn.Module) -> float:
    was = model.training
    model.eval()
    with torch.no_grad():
        loss = a_loss(model, 10_000, 512).item()
    model.train(was)
    return loss


def averaged(model: Any, rule: rules.Rule, lr: float = 1e-3, **options: Any) -> Averaged:
    levels = options.pop("levels", ("global", "layer"))
    adaptation = options.pop("adaptation", None) or DistanceRates(
        gain=GAIN, leak=LEAK, hyper_lr={levels[0]: 20.0, **dict.fromkeys(levels[1:], KAPPA)}
    )
    return Averaged(model, lr, rule=rule, levels=levels, adaptation=adaptation, **options)


class Loop:
    """The method as it is printed, for one global and one layer level, tensor after tensor, in float64."""

    def __init__(self, model: nn.Module, beta: float, kappas: tuple[float, float], adam: bool, decay: float):
        self.model, self.beta, self.kappas, self.adam, self.decay = model, beta, kappas, adam, decay
        self.x = [p.detach().clone() for p in model.parameters()]
        self.z, self.anchor = [x.clone() for x in self.x], [x.clone() for x in self.x]
        self.v = [torch.zeros_like(x) for x in self.x]
        self.layer = [int(name.split(".")[0]) for name, _ in model.named_parameters()]
        self.distance, self.squares, self.weight, self.time, self.first = 0.0, 0.0, 1.0, 0.0, None
        self.rate, self.gained, self.returned, self.bounded = None, 0.0, 0.0, 0
        self.logs = dict.fromkeys(self.layer, 0.0)
        self.usual, self.last, self.held = [0.0] * len(self.x), [0.0] * len(self.x), 0

    def step(
        self, t: int, factor: float = 1.0, highest: float = math.inf, share: float = 1.0, last: float = 0.0
    ) -> None:
        factor **= 0.125
        points = [self.beta * x + (1 - self.beta) * z for x, z in zip(self.x, self.z, strict=True)]
        for p, y in zip(self.model.parameters(), points, strict=True):
            p.data.copy_(y)
            p.grad = None
        a_loss(self.model, t - 1, 2).backward()
        gradients = [p.grad for p in self.model.parameters()]
        directions, counted = [], []
        for i, (v, g) in enumerate(zip(self.v, gradients, strict=True)):
            if self.adam:
                v.mul_(0.999).addcmul_(g, g, value=1e-3)
                u = g / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                directions.append(u * min(1.0, 3.0 / max(1e-30, float(u.square().mean().sqrt()))))
            else:
                square = float(g.square().sum())
                limit = 100.0 * max(self.usual[i], self.last[i]) if t > 1 else square
                counted.append(min(square, limit))
                self.held += counted[i] < square
                self.usual[i] += max(1 / t, 0.02) * (counted[i] - self.usual[i])
                self.last[i] = square
                directions.append(g * math.sqrt(counted[i] / square))
        count = sum(x.numel() for x in self.x)
        if self.first is None:
            size = math.sqrt(max(sum(float(x.square().sum()) for x in self.x), count * 1e-4))
            length = math.sqrt(count if self.adam else sum(float(g.square().sum()) for g in gradients))
            self.first = FIRST_STEP * size / length
        root = min(highest, self.first if self.rate is None else self.rate)
        lowered = [root * math.exp(min(0.0, max(-2.5, self.logs[layer]))) for layer in self.layer]
        rates = [share * rate + (1.0 - share) * last for rate in lowered]
        furthest = math.inf if self.rate is None else GAIN * self.distance * min(1.0, 3.0 / math.sqrt(t - 1))
        reaches = [1.0] * len(rates) if self.adam else [min(1.0, furthest / (root * math.sqrt(c))) for c in counted]
        behind = [x - z for x, z in zip(self.x, self.z, strict=True)]
        back = [a - y for y, a in zip(points, self.anchor, strict=True)]
        moved = [d * (factor * rate / root) for d, rate in zip(directions, rates, strict=True)]
        self.squares += sum(float(d.square().sum()) for d in moved)
        travelled = math.sqrt(sum(float(b.square().sum()) for b in back))
        supposed = root * math.sqrt(self.squares) if self.rate is None else 0.0
        self.distance = max(self.distance, travelled, supposed)
        newest = min(1.0, 8.0 / t)
        gain = root * sum(float((g * d).sum()) for g, d in zip(gradients, moved, strict=True))
        self.gained += newest * (gain - self.gained)
        self.returned += newest * (
            sum(float((g * b).sum()) for g, b in zip(gradients, back, strict=True)) - self.returned
        )
        hypergradient = min(0.1, max(-0.1, self.returned / self.gained))
        supported = self.distance / math.sqrt(self.squares)
        change = min(0.15, max(-0.15, self.kappas[0] / t * hypergradient))
        most = math.inf if self.rate is None else 2.0 * root
        self.rate = min(max(root * math.exp(change), supported), GAIN * supported, most)
        self.bounded += self.rate in (supported, GAIN * supported)
        leak = max(LEAK, 1 / t)
        for node, log in self.logs.items():
            mine = [i for i, layer in enumerate(self.layer) if node == layer]
            inner = sum(float((directions[i] * behind[i]).sum()) for i in mine)
            norms = math.sqrt(
                sum(float(directions[i].square().sum()) for i in mine)
                * sum(float(behind[i].square().sum()) for i in mine)
            )
            self.logs[node] = log + leak * (self.kappas[1] * (inner / norms if norms > 1e-30 else 0.0) - log)
        self.time += factor
        weight = factor * self.time**2
        self.weight += weight
        for i, rate in enumerate(rates):
            self.z[i] -= (
                factor
                * rate
                * reaches[i]
                * (directions[i] + directions[i].abs() * (self.decay * points[i]).clamp(-0.5, 0.5))
            )
            self.x[i] += weight / self.weight * (self.z[i] - self.x[i])


FIRST_STEP = multirate.first_step._SHARE


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("lr", [1e-9, 1e-4, 1.0])
@pytest.mark.parametrize("adam", [True, False], ids=["adam", "gradient"])
@pytest.mark.parametrize("decayed", [False, True], ids=["constant", "decayed"])
def test_it_is_the_printed_method(decayed: bool, adam: bool, lr: float, foreach: bool | None) -> None:
    model, twin = a_model().double(), a_model().double()
    decay = 0.1 if adam else 0.0
    rule = (
        rules.SecondMoment(betas=(0.7, 0.999), weight_decay=decay, decoupled_weight_decay=True)
        if adam
        else rules.Gradient(momentum=0.7)
    )
    adaptation = DistanceRates(gain=GAIN, leak=LEAK, hyper_lr={"global": 20.0, "layer": KAPPA})
    optimizer = averaged(model, rule, lr, adaptation=adaptation, foreach=foreach)
    loop = Loop(twin, 0.7, (20.0, KAPPA), adam, decay)
    for t in range(1, 401):
        factor = 1.0 - t / 500 if decayed else 1.0
        optimizer.param_groups[0]["lr"] = lr * factor
        train(model, optimizer, 1, t - 1, size=2)
        loop.step(t, factor)
        for p, x, z in zip(model.parameters(), loop.x, loop.z, strict=True):
            torch.testing.assert_close(p.detach(), x, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(optimizer.state[p]["iterate"], z, rtol=1e-6, atol=1e-9)
    assert 0 < loop.bounded < 400
    assert adam or loop.held
    assert min(loop.logs.values()) < 0


def test_rates_learn_from_the_steps_that_a_transition_left() -> None:
    model, twin, lr, r = a_model().double(), a_model().double(), 1e-3, 0.01
    optimizer = multirate.Adam(model.named_parameters(), lr, transition=r)
    loop = Loop(twin, 0.8, (20.0, KAPPA), True, 0.0)
    for t in range(1, 201):
        train(model, optimizer, 1, t - 1, size=2)
        loop.step(t, share=math.exp(-r * t), last=lr)
        for p, x in zip(model.parameters(), loop.x, strict=True):
            torch.testing.assert_close(p.detach(), x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("highest", [0.05, 1e-4], ids=["above the first rate", "below"])
def test_a_rate_leaves_its_bound_as_soon_as_it_should(highest: float) -> None:
    model, twin = a_model().double(), a_model().double()
    optimizer = multirate.Adam(model.named_parameters(), bounds=(0.0, highest), levels=("global",))
    loop, held = Loop(twin, 0.8, (20.0, 0.0), True, 0.0), []
    for t in range(1, 201):
        train(model, optimizer, 1, t - 1, size=2)
        loop.step(t, highest=highest)
        held.append(float(optimizer.rates()["global"]) == highest)
        for p, x in zip(model.parameters(), loop.x, strict=True):
            torch.testing.assert_close(p.detach(), x, rtol=1e-6, atol=1e-9)
    assert any(held)
    assert not held[-1] or highest < 1e-3


def test_a_bound_below_the_first_rate_leaves_no_distance_that_was_never_travelled() -> None:
    """About the minimum of a noisy quadratic the rate sinks at once, and not when a supposed distance wears off."""
    parameter = nn.Parameter(torch.zeros(100, dtype=torch.float64))
    optimizer = multirate.SGD([parameter], bounds=(0.0, 1e-6), levels=("global",))
    noise = torch.Generator().manual_seed(0)
    for _ in range(10):
        parameter.grad = parameter.detach() + torch.randn(100, generator=noise, dtype=torch.float64)
        optimizer.step()
    assert float(optimizer.rates()["global"]) < 8e-7


def test_adamw_decays_weights_unless_told_otherwise() -> None:
    model = a_model()
    assert multirate.AdamW(model.named_parameters()).param_groups[0]["weight_decay"] == 0.1
    assert multirate.Adam(model.named_parameters()).param_groups[0]["weight_decay"] == 0.0


@pytest.mark.parametrize("foreach", [None, False])
def test_without_noise_decay_leaves_a_minimum_where_it_is_and_none_is_out_of_reach(foreach: bool | None) -> None:
    minimum, curvature = torch.tensor([0.0, 0.5, -1.0, 4.0, 100.0]), torch.tensor([1.0, 1.0, 0.1, 3.0, 0.3])
    point = nn.Parameter(torch.ones(5))
    optimizer = multirate.AdamW([point], weight_decay=0.1, foreach=foreach)
    for _ in range(2000):
        point.grad = curvature * (point.detach() - minimum)
        optimizer.step()
    torch.testing.assert_close(point.detach(), minimum, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("levels", [("global",), ("global", "unit"), ("global", "parameter")])
def test_bounds_of_zero_stand_still(levels: tuple[str, ...]) -> None:
    model = a_model()
    optimizer = multirate.AdamW(model.named_parameters(), bounds=(0.0, 0.0), levels=levels)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 5)
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("levels", [("global",), ("global", "unit"), ("layer", "parameter"), ("unit",)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_lists_agree_with_the_reference(name: str, dtype: torch.dtype, levels: tuple[str, ...]) -> None:
    models = [a_model().to(dtype) for _ in range(2)]
    options = {"amsgrad": True} if name == "Adam" else {}
    pair = [
        getattr(multirate, name)(m, 1e-3, weight_decay=0.01, levels=levels, foreach=foreach, **options)
        for m, foreach in zip(models, (None, False), strict=True)
    ]
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 3e-2}[dtype]
    for t in range(20):
        for model, optimizer in zip(models, pair, strict=True):
            train(model, optimizer, 1, t)
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance * 0.1)
            for key, value in pair[0].state[p].items():
                torch.testing.assert_close(value, pair[1].state[q][key], rtol=tolerance, atol=3 * tolerance)


def test_the_rules_of_averaged_iterates_leave_the_averaging_to_them() -> None:
    options = {**rules.SecondMoment(betas=(0.6, 0.9)).options()}
    assert rules.SecondMoment().interpolation(options) == 0.6
    assert "exp_avg" not in rules.SecondMoment().buffers(options)
    assert rules.Gradient(momentum=0.3).interpolation({"momentum": 0.3}) == 0.3
    with pytest.raises(ValueError, match="momentum"):
        multirate.SGD(a_model(), momentum=1.0)
    with pytest.raises(ValueError, match="levels"):
        multirate.Adam(a_model(), levels=("parameter",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": 0.5}, "gain: 0.5"),
        ({"leak": 0.0}, "leak: 0.0 must be above 0; leave it at 0.02"),
        ({"leak": 1.5}, "leak: 1.5"),
        ({"bounds": (1.0, 0.1)}, r"bounds: \(1.0, 0.1\)"),
        ({"hyper_lr": -1.0}, r"hyper_lr: -1.0 \(level 'global'\)"),
        ({"hyper_lr": {"global": 20.0}}, "hyper_lr: no value for level 'layer'"),
    ],
)
def test_options_of_distance_rates_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistanceRates(**options).for_levels(("global", "layer"), ("global", "layer"))


# -- where the parameters are ----------------------------------------------------------------------------------------


def average_of(optimizer: Averaged, parameter: Tensor) -> Tensor:
    with optimizer.averaged():
        return parameter.detach().clone()


def as_named(model: nn.Module) -> Any:
    return model.named_parameters()


def as_groups(model: nn.Module) -> Any:
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if n.endswith("weight")]},
        {"params": [p for n, p in named if n.endswith("bias")], "weight_decay": 0.0},
    ]


WAYS = {
    "model": lambda model: model,
    "named_parameters": as_named,
    "parameters": lambda model: model.parameters(),
    "list": lambda model: list(model.parameters()),
    "groups": as_groups,
    "groups of generators": lambda model: [{"params": m.parameters()} for m in (model[0], model[2])],
}


@pytest.mark.parametrize("way", WAYS)
def test_parameters_hold_the_average_outside_a_training_pass(way: str) -> None:
    model = a_model()
    optimizer = multirate.AdamW(WAYS[way](model), 1e-3)
    train(model, optimizer, 20)
    weight = model[0].weight
    resting = weight.detach().clone()
    assert torch.equal(average_of(optimizer, weight), resting)
    iterate = optimizer.state[weight]["iterate"]
    assert (iterate - resting).norm() > 1e-3
    a_loss(model, 20)  # a pass in training mode
    point = weight.detach().clone()
    torch.testing.assert_close(point, 0.8 * resting + 0.2 * iterate)
    twin = copy.deepcopy(a_model())
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin[0].weight.detach(), resting)
    loss = a_loss(model, 21)
    assert held_out(model) == pytest.approx(held_out(twin), rel=1e-5)  # an evaluation borrows the average
    torch.testing.assert_close(weight.detach(), point)
    loss.backward()  # and leaves the graph of the training pass as it was
    optimizer.step()
    assert torch.equal(average_of(optimizer, weight), weight.detach())
    a_loss(model, 22)
    optimizer.zero_grad()
    optimizer.step()  # without gradients
    assert not optimizer.place.training


def test_a_pass_without_gradients_in_training_mode_moves_nothing() -> None:
    model = a_model()
    optimizer = multirate.AdamW(model, 1e-3)
    train(model, optimizer, 5)
    resting = model[0].weight.detach().clone()
    with torch.no_grad():
        a_loss(model, 5)
    assert torch.equal(model[0].weight, resting)


def test_accumulated_gradients_are_all_taken_at_one_point() -> None:
    whole, parts = a_model(), a_model()
    first, second = multirate.AdamW(whole, 1e-3), multirate.AdamW(parts, 1e-3)
    for t in range(10):
        first.zero_grad()
        second.zero_grad()
        (a_loss(whole, 2 * t) + a_loss(whole, 2 * t + 1)).backward()
        first.step()
        a_loss(parts, 2 * t).backward()
        held_out(parts)
        a_loss(parts, 2 * t + 1).backward()
        second.step()
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_parameters_that_no_module_owns_rest_at_the_training_point() -> None:
    target = torch.arange(5.0)
    point = torch.zeros(5, requires_grad=True)
    optimizer = multirate.AdamW([point], 1e-2, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        (point - target).square().sum().backward()
        optimizer.step()
    with optimizer.averaged():
        assert (point - target).norm() < 0.1
        inside = point.detach().clone()
    assert not torch.equal(inside, point)
    torch.testing.assert_close(point.detach(), 0.8 * inside + 0.2 * optimizer.state[point]["iterate"])


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_of_the_model_is_free_of_the_optimizer(way: str) -> None:
    model = a_model()
    optimizer = multirate.AdamW(model, 1e-3)
    train(model, optimizer, 5)
    twin = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    before = [p.detach().clone() for p in twin.parameters()]
    mine = [p.detach().clone() for p in model.parameters()]
    a_loss(twin, 1).backward()
    assert all(torch.equal(p, q) for p, q in zip(before, twin.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(mine, model.parameters(), strict=True))


def test_a_second_optimizer_takes_the_parameters_over() -> None:
    model = a_model()
    old = multirate.AdamW(model, 1e-3)
    train(model, old, 10)
    new = multirate.AdamW(model, 1e-3)
    resting = model[0].weight.detach().clone()
    a_loss(model, 0)
    assert torch.equal(model[0].weight, resting)  # it has made no step, so its iterate and average are one
    train(model, new, 3)
    assert (new.state[model[0].weight]["iterate"] - model[0].weight).norm() > 0


def test_an_optimizer_that_is_gone_leaves_the_model_alone() -> None:
    model = a_model()
    optimizer = multirate.AdamW(model, 1e-3)
    train(model, optimizer, 5)
    resting = model[0].weight.detach().clone()
    del optimizer
    gc.collect()
    a_loss(model, 5).backward()
    assert torch.equal(model[0].weight, resting)


def test_weights_loaded_after_construction_are_where_it_begins() -> None:
    model, donor = a_model(), a_model(1)
    optimizer = multirate.AdamW(model, 1e-3)
    model.load_state_dict(donor.state_dict())
    a_loss(model, 0).backward()
    assert torch.equal(model[0].weight, donor[0].weight)
    assert torch.equal(optimizer.state[model[0].weight]["anchor"], donor[0].weight)


def test_a_checkpoint_between_pass_and_step_holds_the_average_and_resumes() -> None:
    model = a_model()
    optimizer = multirate.AdamW(model, 1e-3)
    train(model, optimizer, 5)
    a_loss(model, 5).backward()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    twin = a_model(1)
    other = multirate.AdamW(twin, 1e-3)
    twin.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    train(model, optimizer, 5, 5)
    train(twin, other, 5, 5)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["compiled module", "its parameters", "module inside", "in place", "one graph"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_models_take_gradients_at_the_training_point(way: str) -> None:
    torch._dynamo.reset()
    model, twin = a_model(), a_model()
    plain = multirate.AdamW(twin, 1e-3)
    if way == "in place":
        optimizer = multirate.AdamW(model, 1e-3)
        model.compile(backend="eager")
        compiled: Any = model
    else:
        compiled = torch.compile(model, backend="eager", fullgraph=way == "one graph")
        given = {"compiled module": compiled, "its parameters": compiled.named_parameters()}.get(way, model)
        optimizer = multirate.AdamW(given, 1e-3)
    train(compiled, optimizer, 10)
    train(twin, plain, 10)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    torch._dynamo.reset()


@pytest.mark.parametrize("way", ["list", "groups"])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_part_in_evaluation_mode_does_not_move_parameters_in_mid_pass(way: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.utils.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 2))
    optimizer = multirate.AdamW(WAYS[way](model))
    model[0].eval()
    train(model, optimizer, 5)
    branch = model[3]

    def with_frozen_branch() -> Tensor:
        hidden = model[:3](torch.ones(5, 4))
        branch.eval()
        with torch.no_grad():
            target = branch(hidden)
        branch.train()
        return (branch(hidden) - target - 1).square().mean()

    with_frozen_branch().backward()
    optimizer.step()


def test_an_older_optimizer_of_other_shape_lets_go() -> None:
    model = a_model()
    old = multirate.AdamW(model)
    train(model, old, 5)
    a_loss(model, 0)
    new = multirate.AdamW(as_groups(model))
    assert not old.place.training
    assert old.place.released
    resting = model[0].weight.detach().clone()
    held_out(model)
    assert torch.equal(model[0].weight, resting)
    train(model, new, 5)
    assert new.place.training is False


def test_going_back_while_at_the_training_point() -> None:
    model = a_model()
    optimizer = multirate.AdamW(model)
    train(model, optimizer, 5)
    saved, theirs = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, 5)
    a_loss(model, 0)  # a batch that is given up
    model.load_state_dict(saved)
    optimizer.load_state_dict(theirs)
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name])
    held_out(model)
    assert torch.equal(model[0].weight, saved["0.weight"])


def test_beta_may_change_between_pass_and_step() -> None:
    model = a_model()
    optimizer = multirate.SGD(model)
    train(model, optimizer, 5)
    resting = model[0].weight.detach().clone()
    a_loss(model, 0)
    optimizer.param_groups[0]["momentum"] = 0.95
    optimizer.zero_grad()
    optimizer.step()
    torch.testing.assert_close(model[0].weight.detach(), resting)
    optimizer.param_groups[0]["momentum"] = 0.0
    train(model, optimizer, 3)
    assert torch.isfinite(model[0].weight).all()


@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_a_start_with_rate_or_gradient_zero_is_as_short_as_any(zero: Any) -> None:
    model = a_model()
    optimizer = multirate.SGD(model, lr=torch.tensor(1.0) if isinstance(zero, Tensor) else 1.0)
    usual = optimizer.param_groups[0]["lr"]
    optimizer.param_groups[0]["lr"] = zero
    train(model, optimizer, 1)
    optimizer.param_groups[0]["lr"] = usual
    optimizer.zero_grad()
    (a_loss(model, 0) * 0).backward()
    optimizer.step()
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer.zero_grad()
    (a_loss(model, 0) * 1e6).backward()
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert 0 < (after - before).norm() <= FIRST_STEP * before.norm() * 1.01


def test_a_plain_tensor_beside_a_model_rests_at_its_average_too() -> None:
    model, extra = a_model(), torch.zeros((), requires_grad=True)
    optimizer = multirate.AdamW([*model.parameters(), extra])
    for t in range(5):
        optimizer.zero_grad()
        (a_loss(model, t) * extra.exp()).backward()
        optimizer.step()
    assert not optimizer.place.training
    assert torch.equal(average_of(optimizer, extra), extra.detach())


def test_parts_of_a_given_model_may_be_called_by_themselves() -> None:
    model = a_model()
    optimizer = multirate.AdamW(model)
    train(model, optimizer, 5)
    model[0](torch.ones(1, 4))
    assert optimizer.place.training


def test_functional_transforms_and_changes_of_type_pass() -> None:
    model = a_model()
    optimizer = multirate.AdamW(model)
    model.double()
    train(model, optimizer, 3)
    assert optimizer.state[model[0].weight]["iterate"].dtype == torch.float64
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: Any) -> Tensor:
        return torch.func.functional_call(model, values, (torch.ones(2, 4).double(),)).sum()

    assert torch.func.grad(loss)(parameters)["0.weight"].shape == (8, 4)
    assert not optimizer.place.training


@pytest.mark.parametrize("order", ["optimizer first", "model first"])
def test_both_may_be_pickled_in_either_order(order: str) -> None:
    model = a_model()
    optimizer = multirate.AdamW(model)
    train(model, optimizer, 5)
    pair = {"o": optimizer, "m": model} if order == "optimizer first" else {"m": model, "o": optimizer}
    twin = pickle.loads(pickle.dumps(pair))
    train(twin["m"], twin["o"], 5, 5)
    assert not twin["o"].place.training
    train(twin["m"], twin["o"], 1, 10)
    a_loss(twin["m"], 11)
    assert twin["o"].place.training


def test_batch_norm_statistics_fit_what_is_evaluated() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = multirate.AdamW(model, 1e-3)
    train(model, optimizer, 400)
    usual = held_out(model)
    norm = model[1]
    norm.reset_running_stats()
    norm.momentum = None
    with torch.no_grad():
        for t in range(200):
            a_loss(model, t)  # the statistics of the average itself
    assert usual < 1.05 * held_out(model)


# -- safe by construction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_the_start_does_not_matter(name: str) -> None:
    ends = []
    for lr in (1e-7, 1e-5, 1e-3, 1e-1, 10.0):
        model = a_model()
        train(model, getattr(multirate, name)(model, lr), 600)
        ends.append(held_out(model))
    start = held_out(a_model())
    assert max(ends) < 0.3 * start
    assert max(ends) < 1.001 * min(ends)


def test_groups_that_start_with_another_lr_keep_the_whole_ratio() -> None:
    model = a_model()
    groups = [{"params": [model[0].weight, model[0].bias], "lr": 1e-5}, {"params": [model[2].weight, model[2].bias]}]
    optimizer = multirate.AdamW(groups, 1e-3, levels=("global",), weight_decay=0.0)
    train(model, optimizer, 5)

    def applied() -> tuple[float, float]:
        rates = [rate.item() for rate in optimizer.applied_rates().values()]
        return rates[0], rates[2]

    small, large = applied()
    assert small == pytest.approx(0.01 * large)
    for group in optimizer.param_groups:
        group["lr"] *= 1 / 256
    assert applied() == pytest.approx((small / 2, large / 2))
    optimizer.param_groups[0]["lr"] = 0.0
    before = [model[0].weight.detach().clone(), model[2].weight.detach().clone()]
    train(model, optimizer, 1, 5)
    torch.testing.assert_close(model[0].weight.detach(), before[0], rtol=1e-6, atol=0)
    assert (model[2].weight - before[1]).abs().max() > 1e-4
    twin = a_model()
    resumed = multirate.AdamW(twin.parameters(), 1e-3, levels=("global",))
    resumed.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": torch.tensor(1e-4)})
    assert resumed.param_groups[1]["starting_lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("levels", [("global", "layer"), ("global", "unit"), ("global", "layer", "unit")])
def test_finer_levels_lower_the_rates_of_nodes_that_swing(levels: tuple[str, ...]) -> None:
    model = a_model()
    optimizer = multirate.AdamW(model, levels=levels)
    train(model, optimizer, 300, size=2)
    memory, tree = optimizer._memory, optimizer._tree
    rates = {level: optimizer.adaptation.level_rates(memory, level, 1e-3) for level in levels}
    for parent, level in itertools.pairwise(levels):
        own = rates[level] / tree.lift(rates[parent], parent, level)
        torch.testing.assert_close(own, memory[f"log_rate.{level}"].clamp(-2.5, 0.0).exp())
        assert own.min() < 0.99
        assert own.max() <= 1.0


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_rate_settles_where_the_hypergradient_of_the_distance_vanishes(name: str) -> None:
    """On a noisy quadratic: more than enough is given up, and too little made good, whatever the first rate was."""
    found = []
    for first_step in (3e-6, 3e-3, 0.3):
        torch.manual_seed(0)
        point = nn.Parameter(torch.ones(50))
        optimizer = getattr(multirate, name)([point], levels=("global",))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(multirate.first_step, "_SHARE", first_step)
            for _ in range(2000):
                point.grad = point.detach() + torch.randn(50)
                optimizer.step()
        found.append(optimizer.rates()["global"].item())
        with optimizer.averaged():
            assert point.detach().square().mean() < 0.02
    assert max(found) < 3 * min(found)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_branch_whose_gradients_begin_at_zero_does_not_miss_its_start(name: str) -> None:
    point = nn.Parameter(torch.ones(50))
    optimizer = getattr(multirate, name)([point], levels=("global",))
    for _ in range(100):
        point.grad = torch.zeros(50)
        optimizer.step()
    assert optimizer.state[point]["steps"] == 0
    for _ in range(200):
        point.grad = point.detach() - 2.0
        optimizer.step()
    assert optimizer.state[point]["steps"] == 200
    assert optimizer.rates()["global"] > 3 * optimizer.state[point]["first_rate"]


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_without_noise_the_rate_goes_to_the_edge_of_stability_and_no_further(condition: float) -> None:
    torch.manual_seed(0)
    curvature = torch.logspace(0.0, -math.log10(condition), 50)
    point = nn.Parameter(torch.randn(50))
    optimizer = multirate.SGD([point], levels=("global",))
    losses = [(curvature * point.detach().square()).sum().item()]
    for _ in range(1000):
        point.grad = curvature * point.detach()
        optimizer.step()
        losses.append((curvature * point.detach().square()).sum().item())
    assert 1.0 < optimizer.rates()["global"].item() < 2.5  # 2 over the largest curvature, plainly
    assert max(losses) < 1.01 * losses[0]
    assert losses[-1] < 1e-3 * losses[0]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_a_schedule_is_neither_needed_nor_harmful(schedule: str) -> None:
    model = a_model()
    optimizer = multirate.AdamW(model, 1e-3)
    steps = 600
    factor = {
        "constant": lambda t: 1.0,
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t / steps)),
        "linear": lambda t: 1 - t / steps,
    }[schedule]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for t in range(steps):
        train(model, optimizer, 1, t)
        scheduler.step()
    plain = a_model()
    train(plain, multirate.AdamW(plain, 1e-3), steps)
    assert held_out(model) < 1.1 * held_out(plain) + 0.005
