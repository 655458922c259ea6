"""The multi-tensor kernel against the for-loop reference: parameters and all state, step by step."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import multirate
from multirate import adaptation, batching, rules
from multirate.rules import Rule

STEPS = 20

# Weight decay is a power of two: its product is exact, so no sign at the parameter level hangs on a rounding.
RULES: dict[str, Rule] = {
    "sgd": rules.SGD(weight_decay=0.0625),
    "dampened heavy ball": rules.SGD(momentum=0.9, dampening=0.1),
    "nesterov": rules.SGD(momentum=0.9, nesterov=True, weight_decay=0.0625),
    "adam": rules.Adam(betas=(0.8, 0.95), weight_decay=0.0625),
    "decoupled amsgrad": rules.Adam(amsgrad=True, betas=(0.9, 0.9), weight_decay=0.0625, decoupled_weight_decay=True),
    "rmsprop": rules.RMSprop(alpha=0.9),
    "centered rmsprop with momentum": rules.RMSprop(centered=True, momentum=0.9, weight_decay=0.0625),
    "adagrad": rules.Adagrad(lr_decay=0.01, initial_accumulator_value=0.1),
    "radam": rules.RAdam(betas=(0.9, 0.95), weight_decay=0.0625, decoupled_weight_decay=True),
    "nadam": rules.NAdam(weight_decay=0.0625),
    "amsbound": rules.AdaBound(final_lr=0.01, gamma=0.05, amsbound=True, weight_decay=0.0625),
    "adabound of the paper": rules.AdaBound(paper_form=True, final_lr=0.01),
    "lion": rules.Lion(weight_decay=0.0625),
}

ADAPTATIONS: dict[str, tuple[adaptation.Adaptation, tuple[str, ...]]] = {
    "camhd unit": (adaptation.CAMHD(hyper_lr=1e-6, weight_lr=1e-2), ("global", "unit")),
    "camhd parameter": (adaptation.CAMHD(hyper_lr=1e-6, weight_lr=1e-3, reduction="mean"), ("layer", "parameter")),
    "log rates": (adaptation.LogRates(hyper_lr=0.05, trace=0.9), ("global", "layer", "unit")),
    "log rates parameter": (adaptation.LogRates(hyper_lr=0.02, trace=0.0), ("global", "parameter")),
    "multiplicative": (adaptation.Multiplicative(hyper_lr=0.05), ("global", "unit")),
    "regularized": (adaptation.Regularized(hyper_lr=1e-6, penalty=1e4), ("global", "layer", "unit")),
}

# For parameters and for state. Half-precision parameters round once a step, so that a step may end on the neighbouring
# number; each step therefore starts from the reference's parameters. Their state is float32.
TOLERANCE: dict[torch.dtype, tuple[dict[str, float], dict[str, float]]] = {
    torch.float64: ({"rtol": 1e-10, "atol": 1e-12}, {"rtol": 1e-9, "atol": 1e-11}),
    torch.float32: ({"rtol": 1e-5, "atol": 2e-6}, {"rtol": 1e-4, "atol": 1e-5}),
    torch.complex64: ({"rtol": 1e-5, "atol": 2e-6}, {"rtol": 1e-4, "atol": 1e-5}),
    torch.float16: ({"rtol": 1e-3, "atol": 1e-5}, {"rtol": 1e-4, "atol": 1e-5}),
    torch.bfloat16: ({"rtol": 8e-3, "atol": 1e-5}, {"rtol": 1e-4, "atol": 1e-5}),
}


BOTH = pytest.mark.parametrize("choice", [True, None], ids=["foreach", "fastest"])


def parameters(dtype: torch.dtype) -> list[tuple[str, torch.nn.Parameter]]:
    """Conv weight in channels_last, matrix, vectors, a single number, and tensors without any element."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, Sequence[int]] = {
        "conv.weight": (4, 3, 3, 3),
        "conv.bias": (4,),
        "hidden.weight": (5, 4),
        "hidden.nothing": (0, 4),
        "hidden.bias": (5,),
        "scale": (),
        "nothing": (0,),
    }
    made = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
    made["conv.weight"] = made["conv.weight"].contiguous(memory_format=torch.channels_last)
    return [(name, torch.nn.Parameter(value)) for name, value in made.items()]


def gradients(params: list[tuple[str, torch.nn.Parameter]], generator: torch.Generator) -> list[Tensor]:
    """A drift of one half and noise; those of the conv weight and of the matrix do not lie as their parameters do."""
    found = []
    for name, parameter in params:
        gradient = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) + 0.5
        if name == "hidden.weight":
            gradient = gradient.t().contiguous().t()
            assert not gradient.is_contiguous()
        elif name == "hidden.bias":
            gradient = torch.stack([gradient, gradient], dim=1)[:, 0]
            assert not gradient.is_contiguous()
        found.append(gradient)
    return found


def agree(
    params: list[list[tuple[str, torch.nn.Parameter]]], pair: list[multirate.MultiRate], dtype: torch.dtype, where: str
) -> None:
    of_parameters, of_state = TOLERANCE[dtype]
    for (name, first), (_, second) in zip(*params, strict=True):
        label = f"{where}, {name}"
        torch.testing.assert_close(
            second.detach(), first.detach(), **of_parameters, msg=lambda m, label=label: f"{label}: {m}"
        )
        assert second.stride() == first.stride()
        expected, found = pair[0].state[first], pair[1].state[second]
        assert list(expected) == list(found)
        for key, value in expected.items():
            assert torch.isfinite(value).all(), f"{label}, {key}"
            torch.testing.assert_close(
                found[key], value, **of_state, msg=lambda m, key=key, label=label: f"{label}, {key}: {m}"
            )


def run_both(
    rule: Rule,
    chosen: adaptation.Adaptation,
    levels: tuple[str, ...],
    dtype: torch.dtype,
    choice: bool | None,
    **options: Any,
) -> None:
    params = [parameters(dtype), parameters(dtype)]
    pair = [
        multirate.MultiRate(p, 1e-3, rule=rule, levels=levels, adaptation=chosen, foreach=foreach, **options)
        for p, foreach in zip(params, (False, choice), strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        for (_, first), (_, second), gradient in zip(*params, gradients(params[0], generator), strict=True):
            first.grad = second.grad = gradient
        before = [p.grad.clone() for _, p in params[0]]
        for optimizer in pair:
            optimizer.step()
        assert all(torch.equal(p.grad, g) for (_, p), g in zip(params[0], before, strict=True)), "a gradient changed"
        agree(params, pair, dtype, f"step {step}")
        if dtype in (torch.float16, torch.bfloat16):
            with torch.no_grad():
                for (_, first), (_, second) in zip(*params, strict=True):
                    second.copy_(first)
    rates = pair[0].rates()
    assert set(rates) == set(levels)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("chosen", ADAPTATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_lists_agree(rule: str, chosen: str, dtype: torch.dtype) -> None:
    run_both(RULES[rule], *ADAPTATIONS[chosen], dtype, True)


@pytest.mark.parametrize("chosen", ADAPTATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_what_is_compiled_agrees(rule: str, chosen: str) -> None:
    run_both(RULES[rule], *ADAPTATIONS[chosen], torch.float64, None)


# What is compiled comes from the same programs in every precision, so that not every rule has to meet every one.
@pytest.mark.parametrize("dtype", [dtype for dtype in TOLERANCE if dtype != torch.float64], ids=str)
@pytest.mark.parametrize("chosen", ADAPTATIONS)
@pytest.mark.parametrize("rule", ["nesterov", "decoupled amsgrad", "lion"])
def test_what_is_compiled_agrees_in_every_precision(rule: str, chosen: str, dtype: torch.dtype) -> None:
    run_both(RULES[rule], *ADAPTATIONS[chosen], dtype, None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", RULES)
@BOTH
def test_kernels_agree_when_maximizing(choice: bool | None, rule: str, dtype: torch.dtype) -> None:
    run_both(RULES[rule], *ADAPTATIONS["camhd unit"], dtype, choice, maximize=True)


@BOTH
@pytest.mark.parametrize("chosen", ADAPTATIONS)
def test_kernels_agree_under_a_transition(chosen: str, choice: bool | None) -> None:
    run_both(rules.Adam(), *ADAPTATIONS[chosen], torch.float64, choice, transition=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_all_kernels_leave_everything_as_it_was_on_a_step_that_is_not_finite(
    rule: str, dtype: torch.dtype, bad: float
) -> None:
    for foreach in (False, True, None):
        params = parameters(dtype)
        optimizer = multirate.MultiRate(
            params, 1e-3, rule=RULES[rule], levels=("global", "unit"), adaptation=adaptation.CAMHD(), foreach=foreach
        )
        generator = torch.Generator().manual_seed(1)
        for _ in range(2):
            for (_, parameter), gradient in zip(params, gradients(params, generator), strict=True):
                parameter.grad = gradient
            optimizer.step()
        values = [p.detach().clone() for _, p in params]
        kept = [{k: v.clone() for k, v in optimizer.state[p].items() if k != "skipped"} for _, p in params]
        params[0][1].grad.view(-1)[3] = bad
        optimizer.step()
        for (name, parameter), value, state in zip(params, values, kept, strict=True):
            assert torch.equal(parameter, value), name
            for key, old in state.items():
                assert torch.equal(optimizer.state[parameter][key], old), (name, key)
        assert int(optimizer.skipped_steps) == 1


def test_batches_that_are_kept_follow_what_changes_between_steps() -> None:
    """Gradients that come and go, state that is replaced, options, other layouts: as if collected anew."""
    params = [parameters(torch.float64), parameters(torch.float64)]
    pair = [
        multirate.MultiRate(
            p, 1e-3, rule=rules.Adam(), levels=("global", "unit"), adaptation=adaptation.CAMHD(hyper_lr=1e-6), foreach=f
        )
        for p, f in zip(params, (False, None), strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    for step in range(12):
        for (name, first), (_, second) in zip(*params, strict=True):
            gradient = torch.randn(first.shape, generator=generator, dtype=torch.float64)
            if step in (4, 7) and name == "hidden.weight":
                gradient = gradient.t().contiguous().t()
            missing = step in (2, 3, 8) and name == "hidden.bias"
            first.grad, second.grad = (None, None) if missing else (gradient, gradient.clone())
        for p, optimizer in zip(params, pair, strict=True):
            if step == 5:
                state = optimizer.state[p[2][1]]
                state["exp_avg"] = state["exp_avg"].clone()
            if step == 6:
                optimizer.state[p[0][1]] = dict(optimizer.state[p[0][1]])
            if step == 9:
                p[2][1].data = p[2][1].data.clone()
            if step == 10:
                optimizer.param_groups[0]["weight_decay"] = 0.0625
            optimizer.step()
        agree(params, pair, torch.float64, f"step {step}")


def test_no_gradient_is_held_after_a_step() -> None:
    params = parameters(torch.float32)
    optimizer = multirate.AdamCAMHD(params)
    for _ in range(3):
        for (_, parameter), gradient in zip(params, gradients(params, torch.Generator()), strict=True):
            parameter.grad = gradient
        kept = [weakref.ref(p.grad) for _, p in params]
        optimizer.step()
        optimizer.zero_grad()
        del parameter, gradient
        assert not any(reference() is not None for reference in kept)


def test_sets_of_parameters_are_told_apart() -> None:
    """The order (0, 2, 3) of some gradients is not the plan of a batch of the tensors 2 and 3."""
    params = parameters(torch.float32)[:4]
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    params[1][1].requires_grad_(False)
    for build in (multirate.AdamW, lambda p: multirate.AdamHD(p, late=True)):
        optimizer = build(groups)
        for _ in range(2):
            for _, parameter in params:
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            optimizer.step()


def test_layouts_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_MOST_PLANS", 10)
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(7)]
    optimizer = multirate.AdamCAMHD(params)
    for k in range(1, 64):
        for i, parameter in enumerate(params):
            parameter.grad = torch.ones(2) if k >> i & 1 else None
        optimizer.step()
    assert len(optimizer._plans) < 20


def test_state_of_a_parameter_that_was_frozen_is_loaded_in_its_own_type() -> None:
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = multirate.AdamHD(params, state_dtype=torch.bfloat16)
    for parameter in params:
        parameter.grad = torch.ones(3)
    optimizer.step()
    saved = optimizer.state_dict()
    others = [torch.nn.Parameter(torch.ones(3), requires_grad=k == 0) for k in range(2)]
    loaded = multirate.AdamHD(others, state_dtype=torch.bfloat16)
    loaded.load_state_dict(saved)
    assert {loaded.state[p]["exp_avg"].dtype for p in others} == {torch.bfloat16}


def test_values_of_a_finer_level_may_be_those_of_a_coarser_one() -> None:
    """An adaptation that hands the rates of layers down to elements; the first parameter has no gradient."""

    class HandedDown(adaptation.CAMHD):
        def combined(self, memory: Any, lr: float) -> Any:
            return memory.tree.lift(memory["rate.layer"], "layer", "parameter")

        def update(self, memory: Any, measured: Any, lr: float) -> Any:
            return self.combined(memory, lr)

    for choice in (False, True, None):
        params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        optimizer = multirate.MultiRate(
            params, 1.0, rule=rules.SGD(), levels=("layer", "parameter"), adaptation=HandedDown(), foreach=choice
        )
        optimizer._memory["rate.layer"].copy_(torch.tensor([1.0, 2.0, 3.0]))
        for parameter in params[1:]:
            parameter.grad = torch.ones(2)
        optimizer.step()
        assert [float(p.detach()[0]) for p in params] == [0.0, -2.0, -3.0]
