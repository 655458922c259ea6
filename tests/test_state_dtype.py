"""State in bfloat16, rounded at random: that the rounding is right, and that everything else stays as it was."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import multirate
from multirate import adaptation, rules
from multirate.kernels import compiled, fused, rounding
from multirate.kernels.compiled import cpu

SHORT = torch.bfloat16
STEPS = 20
SMALLEST = 2.0**-7
"""From 1 to the next number of bfloat16."""

ONE = torch.zeros((), dtype=torch.int32)


def seed(step: int, tensor: int = 0) -> Tensor:
    return rounding.seeds(torch.full((tensor + 1,), float(step)))[tensor]


# -- the rounding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.75, 0.999])
@pytest.mark.parametrize("start", [1.0, -1.0, 2.0**-20, -(2.0**30)])
def test_its_expectation_is_the_number(start: float, share: float) -> None:
    count = 1 << 20
    step = abs(start) * SMALLEST
    value = start + (step if start > 0 else -step) * share
    found = rounding.rounded(torch.full((count,), value), seed(3), "exp_avg").double()
    assert set(((found.abs() - abs(start)) / step).unique().tolist()) <= {0.0, 1.0}
    exact = torch.tensor(value).double()
    deviation = step * (share * (1 - share) / count) ** 0.5
    assert abs(found.mean() - exact) < 5 * deviation + step * 2.0**-16


def test_it_is_as_good_over_steps_tensors_and_buffers_as_over_elements() -> None:
    value, count = torch.tensor([1.0 + 0.25 * SMALLEST]), 4000
    deviation = (0.25 * 0.75 / count) ** 0.5
    ways = {
        "steps": [(seed(t), "a") for t in range(count)],
        "tensors": [(s, "a") for s in rounding.seeds(torch.ones(count))],
        "buffers": [(seed(1), f"buffer {t}") for t in range(count)],
    }
    for name, way in ways.items():
        up = torch.stack([rounding.rounded(value, *own) for own in way]).float().gt(1.0).double()
        assert abs(float(up.mean()) - 0.25) < 5 * deviation, name


def test_decisions_are_not_related() -> None:
    count = 1 << 16
    value = torch.full((count,), 1.0 + 0.5 * SMALLEST)

    def decided(step: int, tensor: int, name: str) -> Tensor:
        return rounding.rounded(value, seed(step, tensor), name).double().sub(1.0 + 0.5 * SMALLEST).sign()

    first = decided(1, 0, "exp_avg")
    others = [decided(2, 0, "exp_avg"), decided(1, 1, "exp_avg"), decided(1, 0, "exp_avg_sq"), first.roll(1)]
    for other in [*others, first.roll(2), first.roll(256), first.view(256, -1).t().flatten()]:
        assert abs(float((first * other).mean())) < 5 * count**-0.5


def test_what_bfloat16_has_stays_as_it_is() -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(SHORT)
    every = every[torch.isfinite(every)]
    assert torch.equal(rounding.rounded(every.float(), seed(5), "x").view(torch.int16), every.view(torch.int16))
    infinite = torch.tensor([torch.inf, -torch.inf])
    assert torch.equal(rounding.rounded(infinite, seed(5), "x").float(), infinite)


def test_places_are_those_in_memory() -> None:
    value = torch.rand(4, 3, 5, 5)
    found = rounding.rounded(value.contiguous(memory_format=torch.channels_last), seed(1), "x")
    plain = rounding.rounded(value.permute(0, 2, 3, 1).contiguous(), seed(1), "x")
    assert torch.equal(found.permute(0, 2, 3, 1), plain)


def test_small_changes_are_not_lost() -> None:
    """A second moment that moves by a thousandth a step stands still where it is rounded to the nearest number."""
    parameter = nn.Parameter(torch.zeros(4096))
    optimizer = multirate.AdamHD([parameter], hyper_lr=0.0, state_dtype=SHORT)
    nearest = torch.zeros((), dtype=SHORT)
    for _ in range(1500):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        nearest = (nearest.float() * 0.999 + 0.001).to(SHORT)
    exact = 1 - 0.999**1500
    second = optimizer.state[parameter]["exp_avg_sq"].double()
    assert abs(float(second.mean()) - exact) < 0.005
    assert abs(float(nearest) - exact) > 0.1


# -- the optimizers --------------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "SGDHD": {"momentum": 0.9, "nesterov": True},
    "SGDCAMHD": {},
    "AdamHD": {"amsgrad": True},
    "AdamCAMHD": {"weight_decay": 0.1},
    "AdaBoundCAMHD": {},
    "Adam": {},
    "AdamW": {"levels": ("global", "unit")},
    "RMSprop": {"centered": True},
    "Adagrad": {},
    "RAdam": {},
    "NAdam": {"trace": 0.0},
    "Lion": {},
}
"""SGD averages its iterates and has no other state."""


def a_model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 5)).to(dtype)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def give_gradients(models: list[nn.Sequential], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for same in zip(*(model.parameters() for model in models), strict=True):
        gradient = torch.randn(same[0].shape, generator=generator).to(same[0].dtype) + 0.5
        for parameter in same:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def follow(models: list[nn.Sequential], pair: list[Any]) -> None:
    """Puts the second where the first is."""
    with torch.no_grad():
        for p, q in zip(*(model.parameters() for model in models), strict=True):
            q.copy_(p)
            for key, value in pair[0].state[p].items():
                pair[1].state[q][key].copy_(value)


def same_bits(models: list[nn.Sequential], pair: list[Any]) -> None:
    """Arithmetic may differ in the last of 24 bits, and rounding then once in thousands."""
    found = []
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5 if p.dtype == torch.float32 else 8e-3, atol=1e-5)
        for key, value in pair[0].state[p].items():
            other = pair[1].state[q][key]
            assert other.dtype == value.dtype
            torch.testing.assert_close(other, value, rtol=8e-3 if value.dtype == SHORT else 1e-4, atol=1e-5)
            if value.dtype == SHORT:
                found.append((value == other).flatten())
    assert torch.cat(found).double().mean() > 0.99


@pytest.mark.parametrize("choice", [True, None], ids=["foreach", "fastest"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree(name: str, dtype: torch.dtype, choice: bool | None) -> None:
    models = [a_model(dtype), a_model(dtype)]
    pair = [
        getattr(multirate, name)(model, foreach=foreach, state_dtype=SHORT, **CASES[name])
        for model, foreach in zip(models, (False, choice), strict=True)
    ]
    for step in range(STEPS):
        give_gradients(models, step)
        for optimizer in pair:
            optimizer.step()
        same_bits(models, pair)
        follow(models, pair)


@pytest.mark.parametrize("name", CASES)
def test_what_is_short_and_what_is_not(name: str) -> None:
    model = a_model()
    optimizer = getattr(multirate, name)(model, state_dtype=SHORT, **CASES[name])
    give_gradients([model], 0)
    optimizer.step()
    expected = {*optimizer.rule.buffers(optimizer.param_groups[0]), "trace", "previous_direction"}
    for parameter in model.parameters():
        state = optimizer.state[parameter]
        short = {key for key, value in state.items() if value.dtype == SHORT}
        signs = {key for key, value in state.items() if value.dtype == torch.int8}
        assert short == {key for key in state if key in expected} - signs
        assert short
        assert all(value.dtype == torch.float32 for key, value in state.items() if key not in short | signs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_double_and_complex_parameters_keep_their_precision(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.ones(3, 2, dtype=dtype))
    optimizer = multirate.AdamHD([parameter], state_dtype=SHORT)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert optimizer.state[parameter]["exp_avg"].dtype == dtype


@pytest.mark.parametrize(
    ("rule", "bytes_per_element"),
    [(rules.SGD(momentum=0.9), 2), (rules.Adam(), 4), (rules.Adam(amsgrad=True), 6), (rules.Lion(), 3)],
    ids=["momentum", "adam", "amsgrad", "lion"],
)
def test_bytes(rule: rules.Rule, bytes_per_element: int) -> None:
    parameter = nn.Parameter(torch.ones(50, 40))
    optimizer = multirate.MultiRate([parameter], rule=rule, adaptation=adaptation.CAMHD(), state_dtype=SHORT)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = [value for value in optimizer.state[parameter].values() if value.shape == parameter.shape]
    assert sum(value.nbytes for value in held) == bytes_per_element * parameter.numel()


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_bit_for_bit(name: str) -> None:
    models = [a_model()]
    pair = [getattr(multirate, name)(models[0], state_dtype=SHORT, **CASES[name])]
    for step in range(3):
        give_gradients(models, step)
        pair[0].step()
    kept = io.BytesIO()
    torch.save([models[0].state_dict(), pair[0].state_dict()], kept)
    kept.seek(0)
    of_model, of_optimizer = torch.load(kept, weights_only=True)
    models.append(a_model())
    models[1].load_state_dict(of_model)
    pair.append(getattr(multirate, name)(models[1], state_dtype=SHORT, **CASES[name]))
    pair[1].load_state_dict(of_optimizer)
    for step in range(3, 6):
        give_gradients(models, step)
        for optimizer in pair:
            optimizer.step()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)
        for key, value in pair[0].state[p].items():
            assert value.dtype == pair[1].state[q][key].dtype
            assert torch.equal(value, pair[1].state[q][key]), key


@pytest.mark.parametrize("made", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["copied", "pickled"])
def test_the_option_is_kept(made: Any) -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    other = made(multirate.AdamHD([parameter], state_dtype=SHORT))
    own = other.param_groups[0]["params"][0]
    own.grad = torch.ones(3)
    other.step()
    other.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert {other.state[p]["exp_avg"].dtype for g in other.param_groups for p in g["params"]} == {SHORT}


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_skipped_step_changes_nothing(name: str, foreach: bool | None) -> None:
    parameter = nn.Parameter(torch.linspace(-1, 1, 40))
    optimizer = getattr(multirate, name)([parameter], foreach=foreach, state_dtype=SHORT, **CASES[name])
    for _ in range(3):
        parameter.grad = torch.linspace(1, 2, 40)
        optimizer.step()
    before = {key: value.clone() for key, value in optimizer.state[parameter].items()}
    parameter.grad[3] = torch.nan
    optimizer.step()
    for key, value in before.items():
        assert key == "skipped" or torch.equal(optimizer.state[parameter][key], value), key


def test_kernels_that_cannot_round_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available", lambda: True)
    for rounds in (False, True):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = multirate.AdamHD([parameter], state_dtype=SHORT if rounds else None)
        parameter.grad = torch.ones(3)
        (batch,) = optimizer._batches()
        assert all(kernel.fits(batch, parameter) is not rounds for kernel in (compiled, fused))


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.int8, "bfloat16"])
def test_other_types_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="state_dtype"):
        multirate.AdamHD([nn.Parameter(torch.ones(3))], state_dtype=kind)
