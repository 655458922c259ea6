"""Adam's fused update against the reference, and that it is really the one that ran."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

import multirate
from multirate import adaptation, kernels, rules
from multirate.kernels import compiled, foreach, fused, reference

SHAPES = {"a.weight": (7, 5), "a.bias": (7,), "b.weight": (3, 7), "empty.weight": (0, 4), "scale": ()}


def parameters(dtype: torch.dtype) -> list[tuple[str, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (name, torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)))
        for name, shape in SHAPES.items()
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kernel", [compiled, fused, foreach], ids=["compiled", "fused", "foreach"])
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (rules.Adam(), {}),
        (rules.Adam(weight_decay=0.1), {}),
        (rules.Adam(weight_decay=0.1, decoupled_weight_decay=True), {}),
        (rules.Adam(amsgrad=True, betas=(0.8, 0.95)), {}),
        (rules.Adam(weight_decay=0.1), {"maximize": True}),
        (rules.Adam(), {"transition": 0.1}),
    ],
    ids=["plain", "coupled", "decoupled", "amsgrad", "maximize", "transition"],
)
def test_every_step_follows_the_reference(
    rule: rules.Adam,
    options: dict[str, Any],
    kernel: ModuleType,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = []
    choose = kernels.choose
    monkeypatch.setattr(kernels, "choose", lambda *facts: used.append(choose(*facts)) or used[-1])
    if kernel is not compiled:
        monkeypatch.setattr(compiled, "fits", lambda *facts: False)
    pair = [parameters(dtype), parameters(dtype)]
    learn = adaptation.CAMHD(hyper_lr=1e-5)
    optimizers = [
        multirate.MultiRate(p, 1e-2, rule=rule, levels=("global", "layer"), adaptation=learn, foreach=f, **options)
        for p, f in zip(pair, (False, True if kernel is foreach else None), strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    tolerance = {"rtol": 1e-5, "atol": 1e-7} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for step in range(20):
        for (_, first), (_, second) in zip(*pair, strict=True):
            gradient = torch.randn(first.shape, generator=generator, dtype=dtype) + 0.5
            if step == 7 and gradient.ndim == 2:
                gradient = gradient.masked_fill(gradient > 1.0, torch.nan)
            first.grad, second.grad = gradient, gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
        for (_, first), (_, second) in zip(*pair, strict=True):
            torch.testing.assert_close(second, first, **tolerance)
            for key, value in optimizers[0].state[first].items():
                torch.testing.assert_close(optimizers[1].state[second][key], value, **tolerance)
    assert set(used) == {reference, kernel}
    assert int(optimizers[1].skipped_steps) == 1


def test_a_skipped_step_leaves_the_fused_state_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "fits", lambda *facts: False)
    params = parameters(torch.float32)
    optimizer = multirate.AdamHD(params, 1e-2, hyper_lr=1e-4)
    for _, parameter in params:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    before = [(p.clone(), {k: v.clone() for k, v in optimizer.state[p].items()}) for _, p in params]
    params[0][1].grad[0, 0] = torch.inf
    optimizer.step()
    for (old, state), (_, parameter) in zip(before, params, strict=True):
        assert torch.equal(old, parameter)
        for key, value in state.items():
            assert key == "skipped" or torch.equal(value, optimizer.state[parameter][key]), key
    assert int(optimizer.skipped_steps) == 1
