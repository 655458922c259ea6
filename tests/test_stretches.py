"""Averaged iterates stretch by stretch against the reference: parameters and all state, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import multirate
from multirate import kernels
from multirate.kernels import compiled, foreach, reference, stretches

NAN_STEP, BURST = 7, 12


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor is too small, and most are several stretches, the last of which is shorter."""
    monkeypatch.setattr(compiled, "fits", lambda *facts: False)
    monkeypatch.setattr(stretches, "SHORTEST", 0)
    monkeypatch.setattr(stretches, "LENGTH", 7)


class Network(nn.Module):
    """A convolution in channels_last, a matrix, vectors, a single number and nothing."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"conv": (4, 3, 3, 3), "matrix": (5, 4), "vector": (5,), "scale": (), "nothing": (0, 4)}
        for name, shape in shapes.items():
            value = torch.randn(shape, generator=generator, dtype=dtype)
            self.register_parameter(name, nn.Parameter(value))
        with torch.no_grad():
            self.conv.data = self.conv.data.contiguous(memory_format=torch.channels_last)

    def forward(self, gradients: list[Tensor]) -> Tensor:
        products = [(p * g).sum() for p, g in zip(self.parameters(), gradients, strict=True)]
        pulls = [(p * p).sum() for p in self.parameters()]
        return torch.stack(products).sum() + 0.1 * torch.stack(pulls).sum()


def gradients(network: Network, step: int) -> list[Tensor]:
    """Noise with a drift; one step in which an element is no number, and one in which all are very large."""
    generator = torch.Generator().manual_seed(step)
    found = []
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) + 0.5
        found.append(noise * (1000.0 if step == BURST else 1.0))
    if step == NAN_STEP:
        found[1][0, 0] = torch.nan
    return found


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"weight_decay": 0.1}),
    "sgd whose average is kept": ("SGD", {"momentum": 0.2, "maximize": True}),
    "adam with amsgrad": ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    "adamw": ("AdamW", {}),
    "adamw that maximizes": ("AdamW", {"maximize": True, "levels": ("layer",)}),
    "adamw whose average is kept": ("AdamW", {"betas": (0.3, 0.99)}),
    "centred rmsprop": ("RMSprop", {"centered": True}),
}


@pytest.mark.parametrize("owned", [True, False], ids=["module", "tensors"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_step_follows_the_reference(
    case: str, dtype: torch.dtype, owned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    choose = kernels.choose
    monkeypatch.setattr(kernels, "choose", lambda *facts: used.append(choose(*facts)) or used[-1])
    name, options = CASES[case]
    networks = [Network(dtype) for _ in range(2)]
    held = [[nn.Parameter(p.detach().clone()) for p in network.parameters()] for network in networks]
    pair = [
        getattr(multirate, name)(network.named_parameters() if owned else tensors, foreach=choice, **options)
        for network, tensors, choice in zip(networks, held, (False, None), strict=True)
    ]
    params = [list(network.parameters()) if owned else tensors for network, tensors in zip(networks, held, strict=True)]
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 3e-2}[dtype]
    for step in range(20):
        for network, tensors, optimizer in zip(networks, params, pair, strict=True):
            optimizer.zero_grad()
            if owned:
                network(gradients(network, step)).backward()
            else:
                for tensor, gradient in zip(tensors, gradients(network, step), strict=True):
                    tensor.grad = (0.2 * tensor.detach()).add_(gradient)
            optimizer.step()
        for first, second in zip(*params, strict=True):
            torch.testing.assert_close(second, first, rtol=tolerance, atol=tolerance)
            assert list(pair[0].state[first]) == list(pair[1].state[second])
            for key, value in pair[0].state[first].items():
                found = pair[1].state[second][key]
                torch.testing.assert_close(found, value, rtol=tolerance, atol=3 * tolerance, msg=f"{step} {key}")
    assert set(used) == {reference, stretches}
    assert int(pair[1].skipped_steps) == 1


def test_a_skipped_step_changes_nothing() -> None:
    network = Network(torch.float32)
    optimizer = multirate.AdamW(network.named_parameters())
    for step in range(3):
        optimizer.zero_grad()
        network(gradients(network, step)).backward()
        optimizer.step()
    before = [p.detach().clone() for p in network.parameters()]
    state = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in network.parameters()]
    optimizer.zero_grad()
    network(gradients(network, NAN_STEP)).backward()
    optimizer.step()
    assert int(optimizer.skipped_steps) == 1
    for parameter, old, kept in zip(network.parameters(), before, state, strict=True):
        torch.testing.assert_close(parameter.detach(), old, rtol=1e-6, atol=1e-6)
        for key, value in kept.items():
            assert key == "skipped" or torch.equal(optimizer.state[parameter][key], value), key


def test_gradients_are_left_as_they_are() -> None:
    tensors = [nn.Parameter(torch.randn(30))]
    optimizer = multirate.SGD(tensors, weight_decay=0.1)
    for step in range(3):
        gradient = torch.randn(30, generator=torch.Generator().manual_seed(step))
        tensors[0].grad = gradient.clone()
        optimizer.step()
        assert torch.equal(tensors[0].grad, gradient)


@pytest.mark.parametrize("why", ["a rate for every unit", "a rate for every element", "foreach", "scattered"])
def test_what_it_cannot_do_is_left_to_lists(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    choose = kernels.choose
    monkeypatch.setattr(kernels, "choose", lambda *facts: used.append(choose(*facts)) or used[-1])
    options: dict[str, Any] = {
        "a rate for every unit": {"levels": ("global", "unit")},
        "a rate for every element": {"levels": ("global", "parameter")},
        "foreach": {"foreach": True},
        "scattered": {},
    }[why]
    tensors = [("matrix", nn.Parameter(torch.randn(6, 5)))]
    optimizer = multirate.AdamW(tensors, **options)
    gradient = torch.randn(5, 6).t() if why == "scattered" else torch.randn(6, 5)
    tensors[0][1].grad = gradient
    optimizer.step()
    assert used == [foreach]
