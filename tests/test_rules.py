"""Every rule is the optimizer it is named after: with hyper rates of 0 it follows an independent implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import pytorch_optimizer
import torch
from torch import Tensor

import multirate
from multirate import rules

STEPS = 50
SHAPES = [(4, 3, 3, 3), (5, 4), (7,), ()]
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.complex64: {"rtol": 1e-5, "atol": 1e-6},
    torch.complex128: {"rtol": 1e-9, "atol": 1e-12},
}


class Case(NamedTuple):
    rule: type[rules.Rule]
    options: dict[str, Any]
    twin: Callable[..., torch.optim.Optimizer]
    twin_options: dict[str, Any]
    lr: float
    maximize: bool = False


def same(rule: type[rules.Rule], twin: Any, lr: float, maximize: bool = False, **options: Any) -> Case:
    """A case whose twin has the same options by the same names."""
    return Case(rule, options, twin, options, lr, maximize)


T = torch.optim
CASES = {
    "sgd": same(rules.SGD, T.SGD, 0.1),
    "sgd maximize": same(rules.SGD, T.SGD, 0.1, maximize=True),
    "sgd decay": same(rules.SGD, T.SGD, 0.1, weight_decay=0.1),
    "sgd maximize decay": same(rules.SGD, T.SGD, 0.1, maximize=True, weight_decay=0.1),
    "sgd momentum": same(rules.SGD, T.SGD, 0.03, momentum=0.9),
    "sgd momentum decay": same(rules.SGD, T.SGD, 0.03, momentum=0.9, weight_decay=0.1),
    "sgd dampening": same(rules.SGD, T.SGD, 0.03, momentum=0.9, dampening=0.3),
    "sgd dampening decay maximize": same(
        rules.SGD, T.SGD, 0.03, maximize=True, momentum=0.8, dampening=0.9, weight_decay=0.05
    ),
    "sgd nesterov": same(rules.SGD, T.SGD, 0.03, momentum=0.9, nesterov=True),
    "sgd nesterov decay maximize": same(
        rules.SGD, T.SGD, 0.03, maximize=True, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "adam": same(rules.Adam, T.Adam, 1e-2),
    "adam betas": same(rules.Adam, T.Adam, 1e-2, betas=(0.5, 0.9)),
    "adam betas zero": same(rules.Adam, T.Adam, 1e-2, betas=(0.0, 0.9)),
    "adam eps": same(rules.Adam, T.Adam, 1e-2, eps=0.1),
    "adam maximize": same(rules.Adam, T.Adam, 1e-2, maximize=True),
    "adam decay": same(rules.Adam, T.Adam, 1e-2, weight_decay=0.1),
    "adam decoupled decay": Case(
        rules.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}, T.AdamW, {"weight_decay": 0.1}, 1e-2
    ),
    "adam own decoupled decay": same(rules.Adam, T.Adam, 1e-2, weight_decay=0.1, decoupled_weight_decay=True),
    "adamw default decay": Case(
        rules.Adam, {"weight_decay": 1e-2, "decoupled_weight_decay": True}, T.AdamW, {}, 1e-2, maximize=True
    ),
    "amsgrad": same(rules.Adam, T.Adam, 1e-2, amsgrad=True, betas=(0.9, 0.8)),
    "amsgrad decay maximize": same(
        rules.Adam, T.Adam, 1e-2, maximize=True, amsgrad=True, betas=(0.9, 0.8), weight_decay=0.1
    ),
    "amsgrad decoupled decay": Case(
        rules.Adam,
        {"amsgrad": True, "weight_decay": 0.1, "decoupled_weight_decay": True},
        T.AdamW,
        {"amsgrad": True, "weight_decay": 0.1},
        1e-2,
    ),
    "rmsprop": same(rules.RMSprop, T.RMSprop, 1e-2),
    "rmsprop alpha eps": same(rules.RMSprop, T.RMSprop, 1e-2, alpha=0.9, eps=1e-3),
    "rmsprop decay maximize": same(rules.RMSprop, T.RMSprop, 1e-2, maximize=True, weight_decay=0.1),
    "rmsprop momentum": same(rules.RMSprop, T.RMSprop, 1e-2, momentum=0.9),
    "rmsprop centered": same(rules.RMSprop, T.RMSprop, 1e-2, centered=True),
    "rmsprop centered momentum decay": same(
        rules.RMSprop, T.RMSprop, 1e-2, centered=True, momentum=0.9, weight_decay=0.1
    ),
    "adagrad": same(rules.Adagrad, T.Adagrad, 0.1),
    "adagrad lr decay": same(rules.Adagrad, T.Adagrad, 0.1, lr_decay=0.1),
    "adagrad initial value": same(rules.Adagrad, T.Adagrad, 0.1, initial_accumulator_value=0.3),
    "adagrad all options": same(
        rules.Adagrad,
        T.Adagrad,
        0.1,
        maximize=True,
        lr_decay=0.01,
        initial_accumulator_value=0.3,
        weight_decay=0.1,
        eps=1e-3,
    ),
    "radam": same(rules.RAdam, T.RAdam, 1e-2),
    "radam betas": same(rules.RAdam, T.RAdam, 1e-2, betas=(0.8, 0.95)),
    "radam never rectified": same(rules.RAdam, T.RAdam, 1e-2, betas=(0.9, 0.5)),
    "radam decay maximize": same(rules.RAdam, T.RAdam, 1e-2, maximize=True, weight_decay=0.1),
    "radam decoupled decay": same(rules.RAdam, T.RAdam, 1e-2, weight_decay=0.1, decoupled_weight_decay=True),
    "nadam": same(rules.NAdam, T.NAdam, 1e-2),
    "nadam betas momentum decay": same(rules.NAdam, T.NAdam, 1e-2, betas=(0.8, 0.95), momentum_decay=0.05),
    "nadam decay maximize": same(rules.NAdam, T.NAdam, 1e-2, maximize=True, weight_decay=0.1),
    "nadam decoupled decay": same(rules.NAdam, T.NAdam, 1e-2, weight_decay=0.1, decoupled_weight_decay=True),
}


class AdaBound(torch.optim.Optimizer):
    """The released AdaBound as a loop; pytorch_optimizer's adds 1e-15 under the root."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        weight_decay: float = 0.0,
        weight_decouple: bool = True,
        ams_bound: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        o = self.param_groups[0]
        beta1, beta2 = o["betas"]
        for p in o["params"]:
            zero = torch.zeros_like(p)
            s = self.state[p] or {"t": 0, "m": zero, "v": zero, "largest": zero}
            g = -p.grad if o["maximize"] else p.grad
            if o["weight_decouple"]:
                p.mul_(1 - o["lr"] * o["weight_decay"])
            else:
                g = g + o["weight_decay"] * p
            t = s["t"] + 1
            m = beta1 * s["m"] + (1 - beta1) * g
            v = beta2 * s["v"] + (1 - beta2) * g * g
            largest = torch.maximum(s["largest"], v)
            root = (largest if o["ams_bound"] else v).sqrt() + 1e-8
            rate = o["lr"] * (1 - beta2**t) ** 0.5 / (1 - beta1**t) / root
            lower = o["final_lr"] * (1 - 1 / (o["gamma"] * t + 1))
            upper = o["final_lr"] * (1 + 1 / (o["gamma"] * t))
            p.sub_(rate.clamp(lower, upper) * m)
            self.state[p] = {"t": t, "m": m, "v": v, "largest": largest}


Lion = pytorch_optimizer.Lion
# Their weight decay is decoupled unless `weight_decouple` says otherwise.
OTHERS = {
    "adabound": Case(rules.AdaBound, {}, AdaBound, {}, 1e-2),
    "adabound clipped from below": Case(rules.AdaBound, {"final_lr": 1.0}, AdaBound, {"final_lr": 1.0}, 1e-3),
    "adabound clipped from above": Case(
        rules.AdaBound, {"final_lr": 1e-3, "gamma": 0.5}, AdaBound, {"final_lr": 1e-3, "gamma": 0.5}, 1e-1
    ),
    "adabound betas": Case(rules.AdaBound, {"betas": (0.8, 0.9)}, AdaBound, {"betas": (0.8, 0.9)}, 1e-2),
    "adabound maximize": Case(rules.AdaBound, {"gamma": 0.05}, AdaBound, {"gamma": 0.05}, 1e-2, True),
    "amsbound": Case(
        rules.AdaBound,
        {"amsbound": True, "betas": (0.9, 0.8), "gamma": 0.05},
        AdaBound,
        {"ams_bound": True, "betas": (0.9, 0.8), "gamma": 0.05},
        1e-2,
    ),
    "adabound decay": Case(
        rules.AdaBound, {"weight_decay": 0.1}, AdaBound, {"weight_decay": 0.1, "weight_decouple": False}, 1e-2
    ),
    "adabound decoupled decay": Case(
        rules.AdaBound,
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        AdaBound,
        {"weight_decay": 0.1, "weight_decouple": True},
        1e-2,
    ),
    "lion": Case(rules.Lion, {}, Lion, {}, 1e-2),
    "lion betas": Case(rules.Lion, {"betas": (0.95, 0.98)}, Lion, {"betas": (0.95, 0.98)}, 1e-2),
    "lion maximize": Case(rules.Lion, {}, Lion, {}, 1e-2, True),
    "lion decoupled decay": Case(
        rules.Lion, {"weight_decay": 0.1}, Lion, {"weight_decay": 0.1, "weight_decouple": True}, 1e-2
    ),
    "lion decay": Case(
        rules.Lion,
        {"weight_decay": 0.1, "decoupled_weight_decay": False},
        Lion,
        {"weight_decay": 0.1, "weight_decouple": False},
        1e-2,
    ),
}


def table(cases: dict[str, Case]) -> list[Any]:
    return [pytest.param(case, id=name.replace(" ", "-")) for name, case in cases.items()]


def parameters(dtype: torch.dtype, seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def gradient_steps(dtype: torch.dtype) -> Iterable[list[Tensor]]:
    """Random gradients with a drift, of scales that change from step to step."""
    generator = torch.Generator().manual_seed(1)
    drift = [0.3 * torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    for step in range(STEPS):
        scale = 0.5 + step % 7
        yield [scale * (torch.randn(d.shape, generator=generator, dtype=dtype) + d) for d in drift]


def hypergradient_free(case: Case, params: list[torch.nn.Parameter], foreach: bool | None) -> multirate.MultiRate:
    return multirate.MultiRate(
        params,
        case.lr,
        rule=case.rule(**case.options),
        levels=("global", "unit"),
        adaptation=multirate.adaptation.Additive(hyper_lr=0.0),
        maximize=case.maximize,
        foreach=foreach,
    )


def follow(case: Case, dtype: torch.dtype, foreach: bool | None, **tolerance: float) -> None:
    tolerance = tolerance or TOLERANCE[dtype]
    ours, theirs = parameters(dtype), parameters(dtype)
    optimizer = hypergradient_free(case, ours, foreach)
    extra = {"maximize": True} if case.maximize else {}
    twin = case.twin(theirs, lr=case.lr, **case.twin_options, **extra)
    for step, gradients in enumerate(gradient_steps(dtype)):
        for mine, other, gradient in zip(ours, theirs, gradients, strict=True):
            mine.grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        # torch keeps counters and NAdam's momentum product in the default type.
        torch.set_default_dtype(torch.float64)
        try:
            twin.step()
        finally:
            torch.set_default_dtype(torch.float32)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(
                mine.detach(), other.detach(), **tolerance, msg=lambda m, step=step: f"step {step}: {m}"
            )
    for before, after in zip(parameters(dtype), ours, strict=True):
        assert not torch.equal(before, after)


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", table(CASES))
def test_rule_follows_torch(case: Case, dtype: torch.dtype, foreach: bool | None) -> None:
    follow(case, dtype, foreach)


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", table(OTHERS))
def test_rule_follows_another_implementation(case: Case, dtype: torch.dtype, foreach: bool | None) -> None:
    follow(case, dtype, foreach)


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize(
    "name",
    ["sgd", "sgd decay", "sgd momentum", "sgd nesterov", "adam", "adam decay", "adam decoupled decay", "amsgrad"],
)
def test_complex_parameters_follow_torch(name: str, dtype: torch.dtype, foreach: bool | None) -> None:
    follow(CASES[name], dtype, foreach)


@pytest.mark.parametrize("name", [name for name in OTHERS if OTHERS[name].rule is rules.AdaBound])
def test_adabound_is_that_of_pytorch_optimizer_up_to_its_second_epsilon(name: str) -> None:
    case = OTHERS[name]._replace(twin=pytorch_optimizer.AdaBound)
    follow(case, torch.float64, None, rtol=1e-6, atol=1e-6)


def test_every_rule_is_in_a_table() -> None:
    elsewhere = {
        rules.Gradient,
        rules.RootMeanSquare,
        rules.SecondMoment,
    }  # those of averaged iterates, tests/test_averaged.py
    named = {getattr(rules, name) for name in rules.__all__} - {rules.Rule} - elsewhere
    assert named == {case.rule for case in (*CASES.values(), *OTHERS.values())}


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("amsbound", [False, True])
@pytest.mark.parametrize(("lr", "final_lr"), [(1e-2, 0.1), (1e-3, 10.0), (0.5, 1e-2)])
def test_adabound_in_the_form_of_the_paper(lr: float, final_lr: float, amsbound: bool, foreach: bool | None) -> None:
    beta1, beta2, eps = 0.9, 0.9, 1e-8
    ours = parameters(torch.float64)
    case = Case(
        rules.AdaBound,
        {"paper_form": True, "final_lr": final_lr, "betas": (beta1, beta2), "amsbound": amsbound},
        T.SGD,
        {},
        lr,
    )
    optimizer = hypergradient_free(case, ours, foreach)
    expected = [p.detach().clone() for p in ours]
    m, v, largest = ([torch.zeros_like(p) for p in expected] for _ in range(3))
    for t, gradients in enumerate(gradient_steps(torch.float64), start=1):
        lower = final_lr * (1 - 1 / ((1 - beta2) * t + 1))
        upper = final_lr * (1 + 1 / ((1 - beta2) * t + 1))
        for i, g in enumerate(gradients):
            ours[i].grad = g.clone()
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            largest[i] = torch.max(largest[i], v[i])
            root = (largest[i] if amsbound else v[i]).sqrt() + eps
            expected[i] = expected[i] - torch.clip(lr / root, lower, upper) / t**0.5 * m[i]
        optimizer.step()
        for mine, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine.detach(), other, **TOLERANCE[torch.float64])
