"""Rates that are a step late, and work that is done while backward goes on."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import multirate
from multirate import adaptation, in_backward, rules
from multirate.adaptation import steps
from multirate.kernels import compiled, foreach

KERNELS = pytest.mark.parametrize("choice", [False, True, None], ids=["reference", "foreach", "fastest"])

OPTIMIZERS: dict[str, Callable[..., multirate.MultiRate]] = {
    "adam-cam-hd": lambda p, **o: multirate.AdamCAMHD(p, 1e-2, hyper_lr=1e-4, **o),
    "sgdn-hd": lambda p, **o: multirate.SGDNHD(p, 1e-2, hyper_lr=1e-3, **o),
    "log rates": lambda p, **o: multirate.MultiRate(
        p, 1e-2, rule=rules.Adam(), adaptation=adaptation.LogRates(trace=0.9), **o
    ),
}


@pytest.fixture(autouse=True)
def a_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_backward, "_TOGETHER", 20)


def a_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 2)).double()


def loss_of(model: nn.Module, t: int) -> torch.Tensor:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
    return (model(x) - x[:, :2] * 2 - 1).square().mean()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 12,
    before: Callable[[nn.Module, int], Any] = lambda model, t: None,
    passes: int = 1,
) -> None:
    for t in range(steps):
        optimizer.zero_grad()
        for k in range(passes):
            loss_of(model, passes * t + k).backward()
        before(model, t)
        optimizer.step()


def same(first: multirate.MultiRate, second: multirate.MultiRate) -> None:
    for p, q in zip(first._parameters, second._parameters, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-10, atol=1e-12)
        assert list(first.state[p]) == list(second.state[q])
        for key, value in first.state[p].items():
            torch.testing.assert_close(
                second.state[q][key], value, rtol=1e-9, atol=1e-11, msg=lambda m, k=key: f"{k} {m}"
            )


def pair_of(name: str, first: dict[str, Any], second: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    for options in (first, second):
        model = a_model()
        found += [model, OPTIMIZERS[name](model, **options)]
    return found


# -- late ------------------------------------------------------------------------------------------------------------


@KERNELS
def test_late_rates_are_those_of_the_step_before(choice: bool | None) -> None:
    theta = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = multirate.SGDHD([theta], 0.1, hyper_lr=0.01, late=True, foreach=choice)
    expected, rate, previous = theta.detach().clone(), 0.1, None
    for t in range(20):
        theta.grad = theta.detach() * (1 + t % 3)
        gradient = expected * (1 + t % 3)
        agreement = 0.0 if previous is None else float(gradient @ previous)
        expected = expected - rate * gradient  # with the rate as it was
        rate = max(rate + 0.01 * agreement, 0.0)
        previous = gradient
        optimizer.step()
        torch.testing.assert_close(theta.detach(), expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(float(optimizer.rates()["global"]), rate, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("choice", [True, None], ids=["foreach", "fastest"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_late_steps_follow_the_reference(name: str, choice: bool | None) -> None:
    model, optimizer, other, faster = pair_of(name, {"late": True, "foreach": False}, {"late": True, "foreach": choice})

    def spoil(model: nn.Module, t: int) -> None:
        if t == 5:
            model[0].weight.grad[0, 0] = torch.nan
        if t % 4 == 3:
            model[2].weight.grad = None

    train(model, optimizer, before=spoil)
    train(other, faster, before=spoil)
    same(optimizer, faster)
    assert int(faster.skipped_steps) == 1


def test_late_rates_of_single_elements() -> None:
    models = [a_model(), a_model()]
    pair = [
        multirate.AdamCAMHD(m, 1e-2, levels=("layer", "parameter"), hyper_lr=1e-5, late=True, foreach=f)
        for m, f in zip(models, (False, None), strict=True)
    ]
    for model, optimizer in zip(models, pair, strict=True):
        train(model, optimizer)
    same(*pair)


def test_a_late_step_is_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model()
    optimizer = OPTIMIZERS["adam-cam-hd"](model, late=True)
    train(model, optimizer, 2)
    for name in ("measure", "apply"):
        monkeypatch.setattr(compiled, name, lambda *_: pytest.fail("a second pass"))
    train(model, optimizer, 2)


# -- sums gathered in backward ---------------------------------------------------------------------------------------


def clip(model: nn.Module, t: int) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def replace(model: nn.Module, t: int) -> None:
    model[0].bias.grad = model[0].bias.grad * 2


def drop(model: nn.Module, t: int) -> None:
    if t % 2:
        model[3].weight.grad = None


@KERNELS
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gathered_sums_change_nothing(name: str, choice: bool | None) -> None:
    model, optimizer, other, early = pair_of(name, {"foreach": choice}, {"foreach": choice, "in_backward": True})
    train(model, optimizer)
    train(other, early)
    same(optimizer, early)


@pytest.mark.parametrize("between", [clip, replace, drop])
def test_gradients_that_changed_after_backward_are_measured_again(between: Callable[..., Any]) -> None:
    model, optimizer, other, early = pair_of("adam-cam-hd", {}, {"in_backward": True})
    train(model, optimizer, before=between)
    train(other, early, before=between)
    same(optimizer, early)


def test_gradients_that_accumulate_are_measured_as_they_end() -> None:
    model, optimizer, other, early = pair_of("adam-cam-hd", {}, {"in_backward": True})
    train(model, optimizer, passes=3)
    train(other, early, passes=3)
    same(optimizer, early)


def test_what_was_gathered_is_not_measured_in_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model()
    optimizer = OPTIMIZERS["adam-cam-hd"](model, in_backward=True, foreach=True)
    calls = []
    measure = foreach.measure
    monkeypatch.setattr(
        foreach, "measure", lambda batch, *rest: calls.append(len(batch.index)) or measure(batch, *rest)
    )
    loss_of(model, 0).backward()
    assert len(calls) > 1
    optimizer.step()
    assert sum(calls) == len([*model.parameters()])


# -- parameters moved in backward ------------------------------------------------------------------------------------


@KERNELS
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_moved_early_are_moved_as_late_ones_are(name: str, choice: bool | None) -> None:
    options = {"foreach": choice, "late": True}
    model, optimizer, other, early = pair_of(name, options, {**options, "in_backward": True})
    train(model, optimizer)
    train(other, early)
    same(optimizer, early)


@KERNELS
@pytest.mark.parametrize("build", [multirate.AdamW, multirate.SGD], ids=["AdamW", "SGD"])
def test_averaged_iterates_moved_early(build: Any, choice: bool | None) -> None:
    models = [a_model(), a_model()]
    pair = [build(m, foreach=choice, in_backward=early) for m, early in zip(models, (False, True), strict=True)]
    for model, optimizer in zip(models, pair, strict=True):
        train(model, optimizer)
    same(*pair)
    x = torch.ones(1, 4, dtype=torch.float64)
    torch.testing.assert_close(*(m.eval()(x) for m in models))


@pytest.mark.parametrize("build", [OPTIMIZERS["adam-cam-hd"], multirate.AdamW], ids=["late", "averaged"])
def test_gradients_are_freed_on_the_way(build: Any) -> None:
    model = a_model()
    optimizer = build(model, in_backward=True, **({} if build is multirate.AdamW else {"late": True}))
    train(model, optimizer, 1)
    optimizer.zero_grad()
    loss_of(model, 1).backward()
    left = [name for name, p in model.named_parameters() if p.grad is not None]
    assert len(left) < 3
    optimizer.step()
    assert float(optimizer.state[model[0].weight]["step"]) == 2
    assert float(optimizer.state[model[0].weight]["time"]) == 2


def test_a_second_backward_before_the_step_is_told() -> None:
    model = a_model()
    optimizer = OPTIMIZERS["adam-cam-hd"](model, late=True, in_backward=True)
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match="in_backward: a second backward pass"):
        loss_of(model, 1).backward()
    optimizer.step()


def test_an_evaluation_between_backward_and_step_sees_the_average() -> None:
    models = [a_model(), a_model()]
    pair = [multirate.AdamW(m, in_backward=early) for m, early in zip(models, (False, True), strict=True)]
    for model, optimizer in zip(models, pair, strict=True):
        train(model, optimizer, 3)
    model, optimizer = models[1], pair[1]
    optimizer.zero_grad()
    loss_of(model, 3).backward()
    moved = {i: optimizer._parameters[i].clone() for i in optimizer.place.stepped}
    assert moved
    model.eval()
    with torch.no_grad():
        loss_of(model, 0)
    model.train()
    saved = copy.deepcopy(model.state_dict())
    optimizer.step()
    names = [name for name, _ in model.named_parameters()]
    for i, value in moved.items():
        torch.testing.assert_close(optimizer._parameters[i].detach(), value.detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(saved[names[i]], value.detach())
    pair[0].zero_grad()
    loss_of(models[0], 3).backward()
    pair[0].step()
    same(*pair)


def test_a_gradient_that_is_not_finite_stops_what_moves_with_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_backward, "_TOGETHER", 1)
    model = a_model()
    optimizer = OPTIMIZERS["adam-cam-hd"](model, late=True, in_backward=True)
    train(model, optimizer, 2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    handle = model[0].bias.register_hook(lambda gradient: gradient * torch.nan)
    train(model, optimizer, 1)
    handle.remove()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name == "0.bias"), name
    assert int(optimizer.skipped_steps) == 1
    assert all(torch.isfinite(rate).all() for rate in optimizer.rates()["unit"].values())


def test_the_parameter_level_cannot_be_gathered() -> None:
    with pytest.raises(ValueError, match="in_backward: True gathers sums"):
        multirate.AdamCAMHD(a_model(), levels=("global", "parameter"), in_backward=True)


def test_processes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model()
    _ = OPTIMIZERS["adam-cam-hd"](model, in_backward=True)
    monkeypatch.setattr(in_backward, "_processes", lambda: 2)
    with pytest.raises(RuntimeError, match="in_backward: True sees gradients before they are averaged"):
        loss_of(model, 0).backward()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_copies_work_on_their_own_parameters(copied: Any) -> None:
    model = a_model()
    optimizer = OPTIMIZERS["adam-cam-hd"](model, in_backward=True)
    train(model, optimizer, 2)
    model_too, optimizer_too = copied((model, optimizer))
    train(model, optimizer, 2)
    train(model_too, optimizer_too, 2)
    same(optimizer, optimizer_too)


def test_a_group_added_later_is_worked_on_too() -> None:
    models = [a_model(), a_model()]
    pair = []
    for model, early in zip(models, (False, True), strict=True):
        optimizer = multirate.AdamHD([*model[0].parameters()], 1e-2, hyper_lr=1e-4, in_backward=early)
        train(model, optimizer, 2)
        optimizer.add_param_group({"params": [*model[3].parameters()]})
        train(model, optimizer, 4)
        pair.append(optimizer)
    same(*pair)


def test_an_optimizer_that_is_gone_leaves_no_hooks() -> None:
    model = a_model()
    optimizer = OPTIMIZERS["adam-cam-hd"](model, in_backward=True)
    assert all(p._post_accumulate_grad_hooks for p in model.parameters())
    del optimizer
    gc.collect()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


# -- what reviewers and users ran into -------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [False, True], ids=["in step", "in backward"])
@pytest.mark.parametrize("choice", [False, None], ids=["reference", "fastest"])
def test_late_steps_may_keep_their_state_short(early: bool, choice: bool | None) -> None:
    model = a_model().float()
    optimizer = OPTIMIZERS["adam-cam-hd"](
        model, late=True, in_backward=early, foreach=choice, state_dtype=torch.bfloat16
    )
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()
    assert optimizer.state[model[0].weight]["exp_avg"].dtype == torch.bfloat16
    assert float(optimizer.state[model[0].weight]["step"]) == 3


@pytest.mark.parametrize("unscale", [False, True], ids=["step alone", "unscaled before"])
def test_gradients_that_a_grad_scaler_changed_are_measured_again(unscale: bool) -> None:
    found = []
    for early in (False, True):
        model = a_model().float()
        optimizer = multirate.AdamHD(model, 1e-2, hyper_lr=1e-4, in_backward=early)
        scaler = torch.amp.GradScaler("cpu")
        for t in range(5):
            optimizer.zero_grad()
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(t))
            scaler.scale((model(x) - x[:, :2]).square().mean()).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        found.append((float(optimizer.rates()["global"]), [p.detach() for p in model.parameters()]))
    torch.testing.assert_close(found[1], found[0])


def test_a_grad_scaler_is_refused_where_parameters_move_in_backward() -> None:
    model = a_model().float()
    optimizer = multirate.AdamHD(model, late=True, in_backward=True)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(2, 4)).mean()).backward()
    with pytest.raises(RuntimeError, match="in_backward: True moves parameters with the gradients of backward"):
        scaler.step(optimizer)


@pytest.mark.parametrize("numba", [True, False], ids=["with Numba", "without"])
@KERNELS
def test_a_graph_that_needs_a_parameter_as_it_was_complains(
    choice: bool | None, numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_backward, "_TOGETHER", 1)
    if not numba:
        monkeypatch.setattr(compiled, "fits", lambda *facts: False)
    first, second = (nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(s))) for s in (0, 1))
    optimizer = multirate.AdamHD([first, second], late=True, in_backward=True, foreach=choice)
    x = torch.ones(2, 3)
    hidden = torch.tanh((x @ first) @ second.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (hidden @ second).square().mean().backward()
    optimizer.zero_grad()


def test_an_optimizer_goes_at_once_when_it_is_dropped() -> None:
    model = a_model()
    optimizer = OPTIMIZERS["adam-cam-hd"](model, late=True, in_backward=True)
    train(model, optimizer, 2)
    gone = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert gone() is None
    finally:
        gc.enable()
    loss_of(model, 0).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_optimizer_that_was_superseded_moves_nothing() -> None:
    model = a_model()
    older = multirate.AdamW(model, in_backward=True)
    train(model, older, 2)
    newer = multirate.AdamW(model)
    train(model, newer, 2)
    assert float(newer.state[model[0].weight]["step"]) == 2
    assert float(older.state[model[0].weight]["step"]) == 2


def test_lookahead_around_it_is_refused() -> None:
    inner = OPTIMIZERS["adam-cam-hd"](a_model(), late=True, in_backward=True)
    with pytest.raises(ValueError, match="optimizer: one that moves parameters in backward"):
        multirate.Lookahead(inner)


@pytest.mark.parametrize("change", ["state", "weight_decay", "parameter"])
def test_what_was_gathered_goes_with_what_it_was_gathered_from(change: str) -> None:
    pair, models = [], []
    for early in (False, True):
        model = a_model()
        optimizer = multirate.AdamHD(model, 1e-2, hyper_lr=1e-4, weight_decay=0.1, in_backward=early)
        train(model, optimizer, 3)
        saved = copy.deepcopy(optimizer.state_dict())
        train(model, optimizer, 1)
        optimizer.zero_grad()
        loss_of(model, 5).backward()
        if change == "state":
            optimizer.load_state_dict(saved)
        elif change == "weight_decay":
            optimizer.param_groups[0]["weight_decay"] = 0.5
        else:
            with torch.no_grad():
                model[0].weight.mul_(0.5)
        optimizer.step()
        pair.append(optimizer)
        models.append(model)
    same(*pair)


def test_a_state_loaded_after_backward_begins_anew() -> None:
    model = a_model()
    optimizer = multirate.AdamW(model, in_backward=True)
    train(model, optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    loss_of(model, 3).backward()
    optimizer.load_state_dict(saved)
    train(model, optimizer, 2)
    assert float(optimizer.state[model[0].weight]["step"]) == 5


def test_a_step_that_is_partly_skipped_counts_once_and_learns_from_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_backward, "_TOGETHER", 1)
    model = a_model()
    optimizer = multirate.MultiRate(
        model,
        1e-2,
        adaptation=adaptation.Multiplicative(step=steps.AdamStep()),
        levels=("global", "layer"),
        late=True,
        in_backward=True,
    )
    train(model, optimizer, 3)
    handle = model[3].bias.register_hook(lambda gradient: gradient * torch.nan)  # the first to come
    before = optimizer.state[model[3].bias]["step_mean_total.layer"].clone()
    train(model, optimizer, 1)
    handle.remove()
    assert float(optimizer.state[model[0].weight]["time"]) == 4
    assert float(optimizer.state[model[3].bias]["step"]) == 3
    assert float(optimizer.state[model[0].weight]["step"]) == 4
    assert torch.isfinite(optimizer.state[model[3].bias]["step_mean.layer"])
    assert before.shape == optimizer.state[model[3].bias]["step_mean_total.layer"].shape


def test_gradients_are_not_held_while_nothing_steps() -> None:
    model = a_model()
    optimizer = OPTIMIZERS["adam-cam-hd"](model, in_backward=True)
    loss_of(model, 0).backward()
    gradients = [weakref.ref(p.grad) for p in model.parameters()]
    optimizer.zero_grad()
    assert not any(gradient() is not None for gradient in gradients)


@KERNELS
def test_averaged_iterates_learn_from_what_was_finite(choice: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_backward, "_TOGETHER", 1)
    model = a_model()
    optimizer = multirate.AdamW(model, in_backward=True, foreach=choice)
    train(model, optimizer, 3)
    before = optimizer.state[model[0].weight]["squares"].clone()
    handle = model[0].bias.register_hook(lambda gradient: gradient * torch.nan)
    train(model, optimizer, 1)
    handle.remove()
    assert int(optimizer.skipped_steps) == 1
    assert float(optimizer.state[model[0].weight]["squares"]) > float(before)
    assert float(optimizer.state[model[0].bias]["step"]) == 3
    assert all(torch.isfinite(p).all() for p in model.parameters())
