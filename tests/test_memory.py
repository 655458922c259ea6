"""What an optimizer keeps: bytes of elementwise state per float32 parameter, and next to nothing beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import multirate
from multirate import adaptation, rules
from multirate.rules import Rule

# Bytes per parameter: (with a one-step horizon, with a trace). A trace takes the place of the kept direction.
BYTES: dict[str, tuple[Rule, int, int]] = {
    "sgd": (rules.SGD(), 4, 4),
    "heavy ball": (rules.SGD(momentum=0.9), 4, 8),
    "heavy ball with dampening": (rules.SGD(momentum=0.9, dampening=0.5), 4, 8),
    "nesterov": (rules.SGD(momentum=0.9, nesterov=True), 8, 8),
    "adam": (rules.Adam(), 8, 12),
    "adamw": (rules.Adam(weight_decay=0.1, decoupled_weight_decay=True), 8, 12),
    "amsgrad": (rules.Adam(amsgrad=True), 12, 16),
    "radam": (rules.RAdam(), 8, 12),
    "nadam": (rules.NAdam(), 12, 12),
    "adabound": (rules.AdaBound(), 12, 12),
    "amsbound": (rules.AdaBound(amsbound=True), 16, 16),
    "lion": (rules.Lion(), 5, 8),
    "rmsprop": (rules.RMSprop(), 8, 8),
    "rmsprop with momentum": (rules.RMSprop(momentum=0.9), 8, 12),
    "centered rmsprop": (rules.RMSprop(centered=True), 12, 12),
    "centered rmsprop with momentum": (rules.RMSprop(centered=True, momentum=0.9), 12, 16),
    "adagrad": (rules.Adagrad(), 8, 8),
}

# Whether the adaptation keeps a trace.
ADAPTATIONS: dict[str, tuple[adaptation.Adaptation, bool]] = {
    "camhd": (adaptation.CAMHD(), False),
    "additive": (adaptation.Additive(), False),
    "log rates with trace": (adaptation.LogRates(), True),
    "log rates": (adaptation.LogRates(trace=0.0), False),
    "multiplicative": (adaptation.Multiplicative(), False),
    "regularized": (adaptation.Regularized(), False),
}

# Bytes per parameter that the levels add: only the parameter level has a rate an element.
LEVELS: dict[tuple[str, ...], int] = {
    ("global",): 0,
    ("global", "layer"): 0,
    ("global", "unit"): 0,
    ("global", "layer", "unit"): 0,
    ("global", "parameter"): 4,
    ("parameter",): 4,
}


def train(
    rule: Rule, levels: tuple[str, ...], chosen: adaptation.Adaptation, foreach: bool | None = None
) -> multirate.MultiRate:
    torch.manual_seed(0)
    params = [("first.weight", torch.nn.Parameter(torch.randn(64, 256)))]
    params += [("second.weight", torch.nn.Parameter(torch.randn(32, 64)))]
    optimizer = multirate.MultiRate(params, rule=rule, levels=levels, adaptation=chosen, foreach=foreach)
    for _ in range(2):
        for _, parameter in params:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return optimizer


def storages(tensors: list[torch.Tensor]) -> int:
    """Bytes of memory behind tensors, each storage counted once and whole."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("levels", LEVELS, ids="-".join)
@pytest.mark.parametrize("chosen", ADAPTATIONS)
@pytest.mark.parametrize("rule", BYTES)
def test_bytes_per_parameter(rule: str, chosen: str, levels: tuple[str, ...]) -> None:
    base, plain, traced = BYTES[rule]
    kind, has_trace = ADAPTATIONS[chosen]
    expected = (traced if has_trace else plain) + LEVELS[levels]
    # At the parameter level every rule and adaptation has kernels of its own to compile, which takes most of the time,
    # and what is kept is allocated whichever kernel runs: one of each kind is compiled.
    compiled = "parameter" not in levels or (rule == "adam" and chosen in ("camhd", "log rates with trace"))
    optimizer = train(base, levels, kind, foreach=None if compiled else False)
    total = 0
    elementwise, others = [], []
    for parameter, state in optimizer.state.items():
        tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
        assert len(tensors) == len(state)
        mine = [t for t in tensors if t.shape == parameter.shape]
        assert sum(t.element_size() for t in mine) == expected, sorted(state)
        elementwise += mine
        others += [t for t in tensors if t.shape != parameter.shape]
        total += parameter.numel()
    assert storages(elementwise) == expected * total
    # What belongs to nodes: a few numbers for each of at most 96 units, 2 layers, 2 tensors and the model.
    assert storages(others) <= 4 * (4 * 96 + 16)


def test_adam_with_combined_rates_keeps_its_moments_and_nothing_else() -> None:
    optimizer = train(rules.Adam(), ("global", "layer"), adaptation.CAMHD())
    for parameter, state in optimizer.state.items():
        assert {name for name, value in state.items() if value.shape == parameter.shape} == {"exp_avg", "exp_avg_sq"}
        assert all(value.ndim == 0 for name, value in state.items() if not name.startswith("exp_avg"))


@pytest.mark.parametrize(
    ("name", "options", "bytes_each"),
    [
        ("SGD", {}, 8),
        ("SGD", {"momentum": 0.0}, 12),
        ("Adam", {}, 12),
        ("AdamW", {}, 12),
        ("AdamW", {"amsgrad": True}, 16),
        ("RMSprop", {}, 12),
    ],
)
def test_averaged_iterates_keep_what_the_table_says(name: str, options: dict[str, Any], bytes_each: int) -> None:
    parameters = [torch.nn.Parameter(torch.randn(64, 64)), torch.nn.Parameter(torch.randn(64, 64).bfloat16())]
    for parameter, extra in zip(parameters, (0, 0 if options.get("momentum") == 0.0 else 4), strict=True):
        optimizer = getattr(multirate, name)([parameter], **options)
        parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        held = [value for value in optimizer.state[parameter].values() if value.shape == parameter.shape]
        assert sum(value.numel() * value.element_size() for value in held) == (bytes_each + extra) * parameter.numel()


def test_lion_keeps_its_direction_in_one_byte() -> None:
    optimizer = train(rules.Lion(), ("global",), adaptation.CAMHD())
    assert {state["previous_direction"].dtype for state in optimizer.state.values()} == {torch.int8}


def test_state_of_half_precision_parameters_is_float32() -> None:
    parameter = torch.nn.Parameter(torch.randn(8, 4).bfloat16())
    optimizer = multirate.MultiRate([parameter], rule=rules.Adam(), levels=("global", "parameter"))
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert {value.dtype for value in optimizer.state[parameter].values()} == {torch.float32}


def test_nothing_grows_with_the_number_of_steps() -> None:
    optimizer = train(rules.Adam(), ("global", "unit"), adaptation.LogRates())

    def held() -> int:
        return storages([value for state in optimizer.state.values() for value in state.values()])

    before = held()
    for _ in range(5):
        optimizer.step()
    assert held() == before
