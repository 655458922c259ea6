"""Rates of single elements worked out in the pass that moves them, against the for-loop reference."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import multirate
from multirate import adaptation, kernels, rules
from multirate.adaptation import steps
from multirate.kernels.compiled.formulas import Formula, Pass
from multirate.levels import Values
from multirate.memory import Memory
from multirate.tensorlist import TensorList

LEVELS = ("global", "layer", "parameter")


@dataclass(frozen=True)
class Peeping(adaptation.CAMHD):
    """Looks at the elements it is given in the middle of a step, and mixes lists of its own among them."""

    def update(self, memory: Memory, measured: adaptation.Measurement, lr: float) -> Values:
        agreement = measured.sums["parameter"]
        signs = TensorList([values.sign() for values in agreement])
        measured.sums["parameter"] = agreement * signs
        return super().update(memory, measured, lr)


CASES: dict[str, adaptation.Adaptation] = {
    "camhd": adaptation.CAMHD(hyper_lr=1e-6, weight_lr=1e-3),
    "softmax weights by layer": adaptation.CAMHD(
        hyper_lr=1e-6, weight_lr=1e-3, normalization="softmax", weight_level="layer"
    ),
    "momentum": adaptation.CAMHD(hyper_lr=1e-6, weight_lr=1e-3, step=steps.Momentum(0.8)),
    "adam": adaptation.Multiplicative(hyper_lr=0.01, step=steps.AdamStep((0.8, 0.9))),
    "sign": adaptation.Regularized(hyper_lr=1e-6, penalty=1e4, step=steps.Sign()),
    "bounded log rates": adaptation.LogRates(hyper_lr=0.1, trace=0.9, bounds=(5e-4, 2e-3)),
    "peeping": Peeping(hyper_lr=1e-6, weight_lr=1e-3),
}


def parameters(dtype: torch.dtype = torch.float64) -> list[tuple[str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (7, 5), "a.bias": (7,), "b.weight": (3, 7), "empty.weight": (0, 4), "scale": ()}
    return [
        (name, torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)))
        for name, shape in shapes.items()
    ]


def grouped(named: list[tuple[str, torch.nn.Parameter]]) -> list[dict[str, Any]]:
    """Two groups of which one decays, so that their formulas differ."""
    return [{"params": named[:2], "weight_decay": 0.0625}, {"params": named[2:]}]


def follow(pair: list[Any], named: list[Any]) -> None:
    """Twenty steps; one gradient is missing at times, and one step is not finite."""
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        for (name, first), (_, second) in zip(*named, strict=True):
            gradient = torch.randn(first.shape, generator=generator, dtype=first.dtype) + 0.5
            if step == 7 and name == "b.weight":
                gradient[1, 1] = torch.inf
            absent = step % 3 == 2 and name == "a.bias"
            first.grad, second.grad = (None, None) if absent else (gradient, gradient.clone())
        for optimizer in pair:
            optimizer.step()
        for (name, first), (_, second) in zip(*named, strict=True):
            torch.testing.assert_close(second, first, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
            for key, value in pair[0].state[first].items():
                torch.testing.assert_close(
                    pair[1].state[second][key], value, rtol=1e-9, atol=1e-11, msg=lambda m, k=key: f"{k}: {m}"
                )
    assert int(pair[1].skipped_steps) == 1


@pytest.mark.parametrize("case", CASES)
def test_every_step_follows_the_reference(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = rules.SGD(momentum=0.9, dampening=0.1) if case == "sign" else rules.Adam(amsgrad=True)
    moved = []
    apply = Pass.apply
    monkeypatch.setattr(Pass, "apply", lambda self, *rest: moved.append(1) or apply(self, *rest))
    named = [parameters(), parameters()]
    pair = [
        multirate.MultiRate(grouped(p), 1e-3, rule=rule, levels=LEVELS, adaptation=CASES[case], foreach=f)
        for p, f in zip(named, (False, None), strict=True)
    ]
    follow(pair, named)
    assert len(moved) == 2 * 19  # two groups, and one step that was skipped


def test_what_an_adaptation_sums_is_gathered_with_the_measurement_of_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks = []
    run = Pass._run
    monkeypatch.setattr(Pass, "_run", lambda self, k, task, *rest: tasks.append(task) or run(self, k, task, *rest))
    named = parameters()
    optimizer = multirate.AdamCAMHD(named, levels=LEVELS, weights=(0.4, 0.4, 0.2), hyper_lr=1e-6)
    for _ in range(3):
        for _, parameter in named:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert tasks == ["measure", "sum", "measure", "measure"]


def test_formulas_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    named = parameters()
    optimizer = multirate.AdamCAMHD(named, levels=LEVELS, weights=(0.4, 0.4, 0.2))
    for _, parameter in named:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not any(isinstance(optimizer._memory[key], Formula) for key in optimizer._memory.slots)
    assert all(torch.is_tensor(rate) for rate in optimizer.rates()["parameter"].values())


def test_other_kernels_and_mixed_precision_are_left_to_lists() -> None:
    named = parameters(torch.float32)
    mixed = [*named, ("d.weight", torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float64)))]
    optimizer = multirate.AdamCAMHD(mixed, levels=LEVELS, weights=(0.4, 0.4, 0.2))
    for _, parameter in mixed:
        parameter.grad = torch.ones_like(parameter)
    batches = optimizer._batches()
    factor = torch.zeros(len(optimizer._tree.tensor_of_cell))
    assert kernels.formulas(batches, optimizer._tree, optimizer._memory, factor, {}) is None
    optimizer.step()


@dataclass(frozen=True)
class Doubling(adaptation.CAMHD):
    """Changes what it remembers in place."""

    def update(self, memory: Memory, measured: adaptation.Measurement, lr: float) -> Values:
        memory["rate.parameter"].mul_(2.0)
        return super().update(memory, measured, lr)


@dataclass(frozen=True)
class Failing(adaptation.CAMHD):
    def update(self, memory: Memory, measured: adaptation.Measurement, lr: float) -> Values:
        raise ArithmeticError("no rates today")


def step_of(chosen: adaptation.Adaptation) -> multirate.MultiRate:
    named = parameters()
    optimizer = multirate.MultiRate(named, levels=LEVELS, rule=rules.Adam(), adaptation=chosen)
    for _, parameter in named:
        parameter.grad = torch.ones_like(parameter)
    return optimizer


def test_what_is_worked_out_later_cannot_be_changed_in_place() -> None:
    with pytest.raises(TypeError, match="mul_: values of the parameter level"):
        step_of(Doubling()).step()


def test_an_adaptation_that_fails_leaves_nothing_lent() -> None:
    optimizer = step_of(Failing())
    with pytest.raises(ArithmeticError):
        optimizer.step()
    assert not optimizer._memory.lent
    assert all(not batch.gradients for batch in optimizer._collector._kept.batches)
    assert torch.is_tensor(optimizer.rates()["parameter"]["a.weight"])


def test_a_step_leaves_no_cycle() -> None:
    optimizer = step_of(adaptation.CAMHD())
    optimizer.step()
    gc.collect()
    gc.disable()
    try:
        optimizer.step()
        passes = [o for o in gc.get_objects() if type(o) is Pass]
    finally:
        gc.enable()
    assert not passes
