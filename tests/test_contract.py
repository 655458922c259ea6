"""What every optimizer of the package owes to the code around it."""

import copy
import io
import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode

import multirate
from multirate import rules
from multirate.adaptation import LogRates
from multirate.averaged import Averaged


@dataclass(frozen=True)
class Case:
    """One optimizer; a flag that differs from its default is an exception, and ``reason`` says why."""

    name: str
    build: Callable[..., torch.optim.Optimizer]
    lr: float = 1e-2
    host_reads: int = 0
    linear_in_lr: bool = True
    compiles: bool = True
    flat_checkpoint: bool = True
    averaged: bool = False
    reason: str = ""

    def make(self, params: Any, **options: Any) -> torch.optim.Optimizer:
        return self.build(params, **{"lr": self.lr, **options})


def _wrapped(params: Any, lr: float, *, maximize: bool = False) -> multirate.Wrapped:
    return multirate.wrap(torch.optim.Adam(params, lr=lr, maximize=maximize))


def _lookahead(params: Any, lr: float, **options: Any) -> multirate.Lookahead:
    return multirate.Lookahead(multirate.AdamHD(params, lr=lr, hyper_lr=1e-5, **options), k=3)


def _preset(name: str, **fixed: Any) -> Callable[..., torch.optim.Optimizer]:
    return lambda params, **options: getattr(multirate, name)(params, **{**fixed, **options})


_AVERAGED: dict[str, Any] = {
    "linear_in_lr": False,
    "averaged": True,
    "reason": "a step moves the average too; the rates learn from the step just made; "
    "a pass in training mode takes the parameters elsewhere, and they come back to the last digit but one",
}
CASES = (
    Case("SGD", _preset("SGD", momentum=0.9), **_AVERAGED),
    Case("Adam", _preset("Adam", weight_decay=1e-3), **_AVERAGED),
    Case("AdamW", _preset("AdamW"), **_AVERAGED),
    Case("RMSprop", _preset("RMSprop", momentum=0.5), **_AVERAGED),
    Case("Adagrad", _preset("Adagrad")),
    Case("RAdam", _preset("RAdam")),
    Case("NAdam", _preset("NAdam")),
    Case(
        "AdaBound",
        _preset("AdaBound"),
        linear_in_lr=False,
        reason="the bounds clamp the rate, so lr is no plain factor",
    ),
    Case("Lion", _preset("Lion"), lr=1e-3),
    Case("SGDHD", _preset("SGDHD")),
    Case("SGDNHD", _preset("SGDNHD", hyper_lr=1e-4)),
    Case("AdamHD", _preset("AdamHD", hyper_lr=1e-5)),
    Case("SGDCAMHD", _preset("SGDCAMHD")),
    Case("SGDNCAMHD", _preset("SGDNCAMHD")),
    Case("AdamCAMHD", _preset("AdamCAMHD", hyper_lr=1e-5)),
    Case("AdaBoundCAMHD", _preset("AdaBoundCAMHD", hyper_lr=1e-5), linear_in_lr=False, reason="as AdaBound"),
    Case("MultiRate", _preset("MultiRate", levels=("global", "layer", "unit", "parameter"))),
    Case(
        "wrap",
        _wrapped,
        host_reads=1,
        compiles=False,
        flat_checkpoint=False,
        reason="an unknown optimizer cannot undo a step, so one number says whether it may run; see Lookahead",
    ),
    Case(
        "Lookahead",
        _lookahead,
        compiles=False,
        flat_checkpoint=False,
        reason="it steps an optimizer inside a step; flattened checkpoints are read by the names in its own state",
    ),
)
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
COMPILED = pytest.mark.parametrize("case", [c for c in CASES if c.compiles], ids=lambda case: case.name)


def a_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 2)).to(dtype)


def loss_of(model: nn.Module, t: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + t)
    dtype = next(model.parameters()).dtype
    x = torch.randn(8, 4, generator=generator).to(dtype)
    return (model(x) - x[:, :2] * 2 - 1).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> list[float]:
    losses = []
    for t in range(start, start + steps):
        optimizer.zero_grad()
        loss = loss_of(model, t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def core(optimizer: torch.optim.Optimizer) -> multirate.MultiRate:
    return optimizer.optimizer if isinstance(optimizer, multirate.Lookahead) else optimizer


def at_rest(optimizer: torch.optim.Optimizer) -> None:
    """Brings the parameters of averaged iterates back from where a training pass took them."""
    if isinstance(core(optimizer), Averaged):
        core(optimizer).to_average()


def leaves(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{at}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, f"{at}/{i}").items()}
    return {at: value.detach().clone() if isinstance(value, torch.Tensor) else value}


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    own = core(optimizer)
    return leaves(
        {
            "model": dict(model.named_parameters()),
            "state": optimizer.state_dict(),
            "rates": own.rates(),
            "weights": own.weights(),
            "applied": own.applied_rates(),
        }
    )


def learned(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return leaves(core(optimizer).rates())


def assert_same(a: dict[str, Any], b: dict[str, Any], ignore: tuple[str, ...] = ()) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if key.rpartition("/")[2] in ignore:
            continue
        if isinstance(value, torch.Tensor):
            assert value.dtype == b[key].dtype, key
            assert torch.equal(value, b[key]), (key, value, b[key])
        else:
            assert value == b[key], key


def assert_near(a: dict[str, Any], b: dict[str, Any], rtol: float = 1e-4) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=rtol, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def assert_unchanged(case: Case, before: dict[str, Any], after: dict[str, Any], ignore: tuple[str, ...] = ()) -> None:
    """To the bit, but for parameters that went to the training point of averaged iterates and back."""
    model = {key for key in before if case.averaged and key.startswith("/model")}
    assert_near({k: before[k] for k in model}, {k: after[k] for k in model}, rtol=1e-6)
    assert_same(
        {k: v for k, v in before.items() if k not in model}, {k: v for k, v in after.items() if k not in model}, ignore
    )


def through_file(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_the_table_holds_every_optimizer() -> None:
    not_optimizers = {"Level", "Transition", "Wrapped", "adaptation", "levels", "rules"}
    assert {case.name for case in CASES} == set(multirate.__all__) - not_optimizers
    plain = Case("", _wrapped)
    for case in CASES:
        flags = ("host_reads", "linear_in_lr", "compiles", "flat_checkpoint", "averaged")
        assert case.reason or all(getattr(case, flag) == getattr(plain, flag) for flag in flags)


@EVERY
def test_it_is_an_optimizer_that_learns_and_whose_rates_move(case: Case) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    before = learned(optimizer)
    losses = train(model, optimizer, 40)
    assert losses[-1] < losses[0]
    assert any(not torch.equal(before[key], value) for key, value in learned(optimizer).items())


@EVERY
def test_groups_keep_their_own_lr(case: Case) -> None:
    model = a_model()
    named = list(model.named_parameters())
    groups = [{"params": named[:2], "lr": 0.0}, {"params": named[2:]}]
    optimizer = case.make(groups)
    frozen = [p.detach().clone() for p in model[0].parameters()]
    train(model, optimizer, 3)
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert optimizer.param_groups[1]["lr"] == case.lr
    for old, new in zip(frozen, model[0].parameters(), strict=True):
        assert torch.equal(old, new)
    assert all(math.isfinite(v) for t in learned(optimizer).values() for v in t.flatten().tolist())


def test_groups_keep_their_own_options() -> None:
    model, twin = a_model(), a_model()
    groups = [{"params": list(model[0].parameters()), "betas": (0.5, 0.9)}, {"params": list(model[3].parameters())}]
    theirs = [{"params": list(twin[0].parameters()), "betas": (0.5, 0.9)}, {"params": list(twin[3].parameters())}]
    for g in groups, theirs:
        g[1]["weight_decay"] = 0.1
    fixed = LogRates(hyper_lr=0.0)
    train(model, multirate.MultiRate(groups, 1e-2, rule=rules.Adam(), adaptation=fixed), 5)
    train(twin, torch.optim.Adam(theirs, 1e-2), 5)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@EVERY
def test_a_late_group_starts_fresh_and_old_rates_stay(case: Case) -> None:
    model, late = a_model(), nn.Linear(3, 3)
    optimizer = case.make(list(model.named_parameters()))
    train(model, optimizer, 5)
    before = everything(model, optimizer)
    optimizer.add_param_group({"params": [(f"late.{n}", p) for n, p in late.named_parameters()]})
    after = everything(model, optimizer)
    shared = {k: v for k, v in before.items() if k in after and not k.startswith("/weights")}
    rates = [k for k in shared if k.startswith(("/rates", "/applied"))]
    assert rates
    for key in rates:
        assert torch.equal(after[key], before[key]), key
    train(model, optimizer, 1, 5)
    late(torch.ones(2, 3)).sum().backward()
    old = late.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(old, late.weight)


@EVERY
def test_a_closure_and_step_hooks_are_called(case: Case) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> torch.Tensor:
        calls.append("closure")
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    old = model[0].weight.detach().clone()
    loss = optimizer.step(closure)
    assert loss.item() > 0
    assert calls == ["before", "closure", "after"]
    assert not torch.equal(old, model[0].weight)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: min(1.0, t / 3)),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4], 0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=10, cycle_momentum=False),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2, step_size_up=2, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.2, total_iters=4),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
}


@EVERY
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_a_schedule_multiplies_and_learned_rates_survive_it(case: Case, scheduler: str) -> None:
    model, dummy = a_model(), torch.zeros(1, requires_grad=True)
    optimizer, stock = case.make(model.named_parameters()), torch.optim.SGD([dummy], case.lr)
    dummy.grad = torch.zeros(1)
    ours, theirs = SCHEDULERS[scheduler](optimizer), SCHEDULERS[scheduler](stock)
    own = core(optimizer)
    metric = (1.0,) if scheduler == "ReduceLROnPlateau" else ()
    for t in range(6):
        train(model, optimizer, 1, t)
        stock.step()
        kept = own.adaptation.level_rates(own._memory, "global", case.lr).clone()
        ours.step(*metric)
        theirs.step(*metric)
        assert optimizer.param_groups[0]["lr"] == stock.param_groups[0]["lr"]
        shown = own.rates()["global"]
        # Of averaged iterates, which need less of a decay, it is the eighth root.
        factor = (stock.param_groups[0]["lr"] / case.lr) ** (0.125 if case.averaged else 1.0)
        torch.testing.assert_close(shown, (kept * factor).reshape(()), rtol=1e-5, atol=1e-12)
    assert not torch.equal(kept, torch.full_like(kept, case.lr))


@pytest.mark.parametrize("case", [c for c in CASES if c.linear_in_lr], ids=lambda case: case.name)
def test_half_the_lr_is_half_the_step(case: Case) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    train(model, optimizer, 4)
    start = [p.detach().clone() for p in model.parameters()]
    saved = copy.deepcopy(optimizer.state_dict())
    moved = []
    for factor in (1.0, 0.5):
        twin = copy.deepcopy(model)
        other = case.make(twin.named_parameters())
        other.load_state_dict(copy.deepcopy(saved))
        other.param_groups[0]["lr"] = case.lr * factor
        train(twin, other, 1, 4)
        moved.append([p.detach() - s for p, s in zip(twin.parameters(), start, strict=True)])
    for whole, half in zip(*moved, strict=True):
        torch.testing.assert_close(half, whole * 0.5, rtol=1e-3, atol=2e-7)


@EVERY
def test_clipping_missing_gradients_and_frozen_parameters(case: Case) -> None:
    model = a_model()
    model[0].bias.requires_grad_(False)
    optimizer = case.make(model.named_parameters())
    frozen = model[0].bias.detach().clone()
    for t in range(6):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        if t % 2:
            model[3].weight.grad = None
        at_rest(optimizer)
        untouched = model[3].weight.detach().clone()
        optimizer.step()
        assert torch.equal(untouched, model[3].weight) == bool(t % 2)
    assert torch.equal(frozen, model[0].bias)
    assert int(core(optimizer).skipped_steps) == 0
    optimizer.zero_grad()
    before = everything(model, optimizer)
    optimizer.step()
    assert_same(before, everything(model, optimizer))


@EVERY
def test_maximize_ascends(case: Case) -> None:
    model, twin = a_model(), a_model()
    optimizer, other = case.make(model.named_parameters(), maximize=True), case.make(twin.named_parameters())
    for t in range(5):
        optimizer.zero_grad()
        other.zero_grad()
        loss_of(model, t).neg().backward()
        loss_of(twin, t).backward()
        optimizer.step()
        other.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@EVERY
def test_lr_zero_in_warm_up(case: Case) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    start = [p.detach().clone() for p in model.parameters()]
    raw = learned(optimizer)
    optimizer.param_groups[0]["lr"] = 0.0
    train(model, optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
    optimizer.param_groups[0]["lr"] = case.lr
    assert_same(raw, learned(optimizer))
    train(model, optimizer, 1)
    if not case.averaged:  # the displacement that the first gradient after the pause judges was none
        assert_same(raw, learned(optimizer))
    losses = train(model, optimizer, 20)
    assert losses[-1] < losses[0]


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_rates_in_float32_through_a_checkpoint(case: Case, dtype: torch.dtype) -> None:
    model = a_model(dtype)
    optimizer = case.make(model.named_parameters())
    train(model, optimizer, 5)
    assert int(core(optimizer).skipped_steps) == 0
    assert {v.dtype for v in learned(optimizer).values()} == {torch.float32}
    twin = copy.deepcopy(model)
    other = case.make(twin.named_parameters())
    other.load_state_dict(through_file(optimizer.state_dict()))
    assert_same(everything(model, optimizer), everything(twin, other))
    train(model, optimizer, 5, 5)
    train(twin, other, 5, 5)
    assert_same(everything(model, optimizer), everything(twin, other))


@EVERY
def test_sparse_gradients_are_refused(case: Case) -> None:
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = case.make(model.named_parameters())
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


@EVERY
def test_complex_parameters_are_pairs_of_real_ones(case: Case) -> None:
    torch.manual_seed(0)
    start = torch.randn(3, 4, dtype=torch.complex64)
    target = torch.randn(3, 4, dtype=torch.complex64)
    z, r = start.clone().requires_grad_(), torch.view_as_real(start).clone().requires_grad_()
    options = {} if case.name != "MultiRate" else {"levels": ("global", "layer", "unit")}
    pair = [case.make([("w.weight", p)], **options) for p in (z, r)]
    for t in range(8):
        for parameter, optimizer in zip((z, r), pair, strict=True):
            optimizer.zero_grad()
            other = target if parameter.is_complex() else torch.view_as_real(target)
            ((parameter - other) * (1 + t % 3)).abs().square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(z.detach()), r.detach(), rtol=1e-4, atol=1e-6)
    assert_near(learned(pair[0]), learned(pair[1]))


@EVERY
def test_resuming_changes_no_bit(case: Case) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    train(model, optimizer, 5)
    saved = through_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    twin = a_model()
    twin.load_state_dict(saved["model"])
    other = case.make(twin.named_parameters())
    other.load_state_dict(saved["optimizer"])
    train(model, optimizer, 5, 5)
    train(twin, other, 5, 5)
    assert_same(everything(model, optimizer), everything(twin, other))


@EVERY
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_train_alike_and_apart(case: Case, way: str) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    train(model, optimizer, 4)
    both = (model, optimizer)
    twin, other = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
    before = everything(twin, other)
    train(model, optimizer, 3, 4)
    assert_same(before, everything(twin, other))
    train(twin, other, 3, 4)
    assert_same(everything(model, optimizer), everything(twin, other))


WARM: dict[str, tuple[str, dict[str, Any], rules.Rule]] = {
    "Adam": ("Adam", {}, rules.Adam()),
    "AMSGrad": ("Adam", {"amsgrad": True}, rules.Adam(amsgrad=True)),
    "AdamW": ("AdamW", {}, rules.Adam(weight_decay=1e-2, decoupled_weight_decay=True)),
    "SGD": ("SGD", {"momentum": 0.9}, rules.SGD(momentum=0.9)),
}


@pytest.mark.parametrize("name", WARM)
def test_warm_start_from_torch(name: str) -> None:
    theirs, options, rule = WARM[name]
    model, twin = a_model(), a_model()
    stock = getattr(torch.optim, theirs)(model.parameters(), lr=1e-2, **options)
    train(model, stock, 5)
    twin.load_state_dict(model.state_dict())
    ours = multirate.MultiRate(twin.parameters(), 1e-2, rule=rule, adaptation=LogRates(hyper_lr=0.0))
    ours.load_state_dict(through_file(stock.state_dict()))
    train(model, stock, 5, 5)
    train(twin, ours, 5, 5)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", WARM)
def test_averaged_iterates_begin_where_torch_left_off(name: str) -> None:
    theirs, options, _ = WARM[name]
    model, twin = a_model(), a_model()
    stock = getattr(torch.optim, theirs)(model.parameters(), lr=1e-2, **options)
    train(model, stock, 5)
    ours = getattr(multirate, theirs)(twin.parameters(), lr=1e-2, **options)
    ours.load_state_dict(through_file(stock.state_dict()))
    twin.load_state_dict(model.state_dict())  # in the order that leaves the optimizer to find out
    before = loss_of(model, 5).item()
    assert loss_of(twin, 5).item() == before
    losses = train(twin, ours, 30, 5)
    assert losses[-1] < before
    if theirs != "SGD":
        assert torch.equal(ours.state[twin[0].weight]["step"], torch.tensor(35.0))


@pytest.mark.parametrize(
    ("theirs", "own"),
    [
        (("global", "unit"), ("global", "layer")),
        (("global",), ("layer",)),
        (("layer",), ("global",)),
        (("layer",), ("global", "layer")),
    ],
)
def test_a_state_with_other_levels_is_refused_and_changes_nothing(
    theirs: tuple[str, ...], own: tuple[str, ...]
) -> None:
    model = a_model()
    saved = multirate.Adam(model.named_parameters(), levels=theirs).state_dict()
    optimizer = multirate.Adam(model.named_parameters(), levels=own)
    train(model, optimizer, 3)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="levels"):
        optimizer.load_state_dict(saved)
    assert_same(before, everything(model, optimizer))


@EVERY
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
def test_distributed_checkpoint_keeps_everything(case: Case, flat: bool) -> None:
    flat = flat and case.flat_checkpoint
    model = a_model()
    optimizer = case.make(model.parameters())
    train(model, optimizer, 5)
    optimizer.zero_grad()
    before = everything(model, optimizer)
    options = dcp.StateDictOptions(flatten_optimizer_state_dict=flat)
    saved = dcp.get_optimizer_state_dict(model, optimizer, options=options)
    assert_same(before, everything(model, optimizer))
    saved = through_file(saved)
    twin = copy.deepcopy(model)
    other = case.make(twin.parameters())
    dcp.set_optimizer_state_dict(twin, other, saved, options=options)
    train(model, optimizer, 3, 5)
    train(twin, other, 3, 5)
    assert_same(everything(model, optimizer), everything(twin, other))


@EVERY
@pytest.mark.parametrize("trained", [0, 4])
def test_a_ghost_step_changes_nothing(case: Case, trained: int) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    train(model, optimizer, trained)
    before = everything(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rates = [group["lr"] for group in optimizer.param_groups]
    for zero in (0.0, torch.tensor(0.0)):
        for group in optimizer.param_groups:
            group["lr"] = zero
        optimizer.step()
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    assert_same(before, everything(model, optimizer))


@EVERY
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("trained", [0, 4])
def test_one_bad_gradient_changes_nothing_but_the_count(case: Case, bad: float, trained: int) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    train(model, optimizer, trained)
    before = everything(model, optimizer)
    optimizer.zero_grad()
    loss_of(model, trained).backward()
    model[0].weight.grad[1, 2] = bad
    optimizer.step()
    assert int(core(optimizer).skipped_steps) == 1
    assert_unchanged(case, before, everything(model, optimizer), ignore=("skipped",))
    losses = train(model, optimizer, 20, trained)
    assert losses[-1] < losses[0]


@EVERY
def test_the_reference_kernel_skips_too(case: Case) -> None:
    if case.name == "wrap":
        return
    model = a_model()
    optimizer = case.make(model.named_parameters(), foreach=False)
    train(model, optimizer, 3)
    before = everything(model, optimizer)
    optimizer.zero_grad()
    loss_of(model, 3).backward()
    model[3].bias.grad[0] = math.nan
    optimizer.step()
    assert_unchanged(case, before, everything(model, optimizer), ignore=("skipped",))


@EVERY
def test_grad_scaler(case: Case) -> None:
    model, twin = a_model(), a_model()
    optimizer, other = case.make(model.named_parameters()), case.make(twin.named_parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(4):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, t)).backward()
        scaler.step(optimizer)
        scaler.update()
    train(twin, other, 4)
    assert_near(leaves(dict(model.named_parameters())), leaves(dict(twin.named_parameters())))
    before = everything(model, optimizer)
    optimizer.zero_grad()
    (scaler.scale(loss_of(model, 4)) * math.inf).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    at_rest(optimizer)
    assert_unchanged(case, before, everything(model, optimizer))


class HostReads(TorchDispatchMode):
    """Counts operations that make the host wait for a device."""

    NAMES = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.item", "aten.equal", "aten.nonzero", "aten.unique")

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).rpartition(".")[0]
        if name in self.NAMES:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@EVERY
@pytest.mark.parametrize("kind", ["plain", "missing gradient", "tensor lr", "transition"])
def test_a_step_reads_nothing_back(case: Case, kind: str) -> None:
    options: dict[str, Any] = {}
    if kind == "transition":
        if case.name == "wrap":
            return
        options["transition"] = 0.01
    model = a_model()
    optimizer = case.make(model.named_parameters(), **options)
    if kind == "tensor lr":
        if case.name == "wrap":
            return
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(case.lr)
    for t in range(3):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        if kind == "missing gradient":
            model[3].bias.grad = None
        with HostReads() as reads:
            optimizer.step()
        if not case.host_reads:  # what wrap reads is told from what its inner optimizer reads in the next test
            assert not reads.seen


def test_wrap_itself_reads_one_number() -> None:
    class Still(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.sub_(p.grad, alpha=group["lr"])

    model = a_model()
    optimizer = multirate.wrap(Still(model.named_parameters(), {"lr": 1e-2}))
    for t in range(3):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        with HostReads() as reads:
            optimizer.step()
        assert sum(reads.seen.values()) == next(c.host_reads for c in CASES if c.name == "wrap")


@EVERY
def test_gradients_and_lr_are_left_alone(case: Case) -> None:
    model = a_model()
    optimizer = case.make(model.named_parameters())
    for t in range(3):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        gradients = {n: (p.grad, p.grad.clone()) for n, p in model.named_parameters()}
        optimizer.step()
        for name, p in model.named_parameters():
            assert p.grad is gradients[name][0]
            assert torch.equal(p.grad, gradients[name][1])
        assert all(type(group["lr"]) is float and group["lr"] == case.lr for group in optimizer.param_groups)


@EVERY
def test_order_and_grouping_of_parameters_do_not_matter(case: Case) -> None:
    results = []
    for arrange in (
        lambda named: named,
        lambda named: named[::-1],
        lambda named: [{"params": named[::2]}, {"params": named[1::2]}],
    ):
        model = a_model()
        optimizer = case.make(arrange(list(model.named_parameters())))
        train(model, optimizer, 8)
        results.append((leaves(dict(model.named_parameters())), learned(optimizer)))
    for other in results[1:]:
        assert_near(results[0][0], other[0])
        assert_near(results[0][1], other[1])


@COMPILED
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_do_not_recompile(case: Case, fullgraph: bool) -> None:
    torch._dynamo.reset()
    model, twin = a_model(), a_model()
    optimizer, other = case.make(model.named_parameters()), case.make(twin.named_parameters())
    compiled = torch.compile(optimizer.step, backend="eager", fullgraph=fullgraph)
    for t in range(6):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        if t < 2:
            compiled()
        else:
            with torch._dynamo.config.patch(error_on_recompile=True):
                compiled()
    train(twin, other, 6)
    assert_near(leaves(dict(model.named_parameters())), leaves(dict(twin.named_parameters())))
    torch._dynamo.reset()


WRONG: dict[str, tuple[str, Callable[[list[Any]], Any]]] = {
    "lr zero": ("lr", lambda p: multirate.Adam(p, lr=0.0)),
    "lr negative": ("lr", lambda p: multirate.SGD(p, lr=-1.0)),
    "lr nan": ("lr", lambda p: multirate.Adam(p, lr=math.nan)),
    "lr inf": ("lr", lambda p: multirate.Adam(p, lr=math.inf)),
    "lr vector": ("lr", lambda p: multirate.Adam(p, lr=torch.ones(2))),
    "weights sum": ("weights", lambda p: multirate.AdamCAMHD(p, weights=(0.5, 0.2))),
    "weights number": ("weights", lambda p: multirate.AdamCAMHD(p, weights=(0.5, 0.2, 0.3))),
    "weights negative": ("weights", lambda p: multirate.AdamCAMHD(p, weights=(1.5, -0.5))),
    "weights nan": ("weights", lambda p: multirate.AdamCAMHD(p, weights=(math.nan, 1.0))),
    "weights name": ("weights", lambda p: multirate.AdamCAMHD(p, weights={"global": 0.5, "layer": 0.5})),
    "unknown level": ("levels", lambda p: multirate.Adam(p, levels=("global", "nope"))),
    "duplicate level": ("levels", lambda p: multirate.Adam(p, levels=("global", "global"))),
    "no level": ("levels", lambda p: multirate.Adam(p, levels=())),
    "one string": ("levels", lambda p: multirate.Adam(p, levels="global")),
    "number level": ("levels", lambda p: multirate.Adam(p, levels=(1,))),
    "penalty": (
        "penalty",
        lambda p: multirate.MultiRate(p, adaptation=multirate.adaptation.Regularized(penalty=-1.0)),
    ),
    "time penalty": (
        "time_penalty",
        lambda p: multirate.MultiRate(p, adaptation=multirate.adaptation.Regularized(time_penalty=-1.0)),
    ),
    "no parameters": ("params", lambda p: multirate.Adam([])),
    "a tensor": ("params", lambda p: multirate.Adam(p[0])),
    "hyper nan": ("hyper_lr", lambda p: multirate.Adam(p, hyper_lr=math.nan)),
    "hyper negative": ("hyper_lr", lambda p: multirate.SGDHD(p, hyper_lr=-1.0)),
    "hyper HD nan": ("hyper_lr", lambda p: multirate.AdamHD(p, hyper_lr=math.nan)),
    "hyper level": ("hyper_lr", lambda p: multirate.Adam(p, hyper_lr={"global": 1e-3, "nope": 1.0})),
    "weight_lr": ("weight_lr", lambda p: multirate.SGDCAMHD(p, weight_lr=-1.0)),
    "weight_lr nan": ("weight_lr", lambda p: multirate.SGDCAMHD(p, weight_lr=math.nan)),
    "reduction": ("reduction", lambda p: multirate.SGDHD(p, reduction="max")),
    "normalization": ("normalization", lambda p: multirate.SGDCAMHD(p, normalization="max")),
    "weight level": ("weight_level", lambda p: multirate.SGDCAMHD(p, weight_level="layer")),
    "bounds order": ("bounds", lambda p: multirate.Adam(p, bounds=(1.0, 0.5))),
    "bounds negative": ("bounds", lambda p: multirate.SGDHD(p, bounds=(-1.0, 0.5))),
    "bounds nan": ("bounds", lambda p: multirate.Adam(p, bounds=(0.0, math.nan))),
    "betas": ("betas", lambda p: multirate.Adam(p, betas=(0.9, 1.0))),
    "betas lion": ("betas", lambda p: multirate.Lion(p, betas=(-0.1, 0.9))),
    "eps": ("eps", lambda p: multirate.Adam(p, eps=-1.0)),
    "decay": ("weight_decay", lambda p: multirate.SGD(p, weight_decay=-1.0)),
    "momentum": ("momentum", lambda p: multirate.SGD(p, momentum=-1.0)),
    "alpha": ("alpha", lambda p: multirate.RMSprop(p, alpha=-1.0)),
    "trace": ("trace", lambda p: multirate.RAdam(p, trace=1.5)),
    "nesterov": ("nesterov", lambda p: multirate.SGD(p, momentum=0.0, nesterov=True)),
    "nesterov HD": ("nesterov", lambda p: multirate.SGDNHD(p, momentum=0.0)),
    "transition": ("transition", lambda p: multirate.Adam(p, transition=-1.0)),
    "rule": ("rule", lambda p: multirate.MultiRate(p, rule="adam")),
    "adaptation": ("adaptation", lambda p: multirate.MultiRate(p, adaptation="log")),
    "group hyper_lr": ("hyper_lr", lambda p: multirate.Adam([{"params": p, "hyper_lr": 1.0}])),
    "group lr": ("lr", lambda p: multirate.Adam([{"params": p, "lr": -1.0}])),
    "group lr nan": ("lr", lambda p: multirate.Adam([{"params": p, "lr": math.nan}])),
    "group betas": ("betas", lambda p: multirate.Adam([{"params": p, "betas": (2.0, 0.9)}])),
    "lookahead k": ("k", lambda p: multirate.Lookahead(multirate.Adam(p), k=0)),
    "lookahead alpha": ("alpha", lambda p: multirate.Lookahead(multirate.Adam(p), alpha=0.0)),
    "lookahead none": ("optimizer", lambda p: multirate.Lookahead(p)),
    "wrap none": ("optimizer", lambda p: multirate.wrap(p)),
    "wrap lr": ("lr", lambda p: multirate.wrap(torch.optim.SGD(p, lr=0.0))),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_refused_by_name(wrong: str) -> None:
    option, call = WRONG[wrong]
    with pytest.raises(ValueError, match=rf"\b{option}\b"):
        call(list(a_model().parameters()))
