"""Rounds of steps, on parameters small enough for a test."""

import math

import pytest
import torch

from multirate.lab.bench import memory
from multirate.lab.bench.candidates import CANDIDATES, Candidate
from multirate.lab.bench.measuring import WARM_UPS, measure
from multirate.lab.bench.memory import height, peak_bytes, state_bytes

SMALL = {"first.weight": (8, 4), "first.bias": (8,), "norm.weight": (8,)}
CPU = torch.device("cpu")


class Greedy(torch.optim.SGD):
    """Overwrites the gradients it is given, as a published optimizer does."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.fill_(math.nan)


def test_an_optimizer_that_spoils_its_gradients_spoils_nobody_else_s(monkeypatch):
    monkeypatch.setattr(torch.optim, "Greedy", Greedy, raising=False)
    seen = []
    step = torch.optim.AdamW.step

    def watched(self, closure=None):
        seen.extend(float(parameter.grad.sum()) for parameter in self.param_groups[0]["params"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    greedy = Candidate("greedy", "torch.optim:Greedy", "", "")
    measure([greedy, CANDIDATES["adamw-loop"]], SMALL, rounds=4, device=CPU)
    assert len(seen) == (WARM_UPS + 4) * len(SMALL)
    assert all(math.isfinite(value) for value in seen)


def test_all_have_the_same_gradients_in_a_round_and_others_in_the_next(monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def watched(self, closure=None):
        seen.append(float(self.param_groups[0]["params"][0].grad.sum()))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    measure([CANDIDATES["adamw-loop"], CANDIDATES["adamw-foreach"]], SMALL, rounds=2, device=CPU)
    assert seen[0::2] == seen[1::2]
    assert len(set(seen)) == WARM_UPS + 2


def test_only_rounds_that_count_are_kept_and_copying_is_timed_beside():
    rounds = []
    found = measure(
        [CANDIDATES["adamw-loop"]], SMALL, rounds=3, device=CPU, copied=64, on_round=lambda: rounds.append(1)
    )
    assert len(rounds) == WARM_UPS + 3
    (measured,) = found.optimizers
    assert len(measured.seconds) == len(measured.host) == len(found.copy) == len(found.read) == 3
    assert measured.seconds == measured.host  # on a CPU nothing goes on after the call returns
    assert measured.peak_bytes is None
    assert found.copied == 64
    assert measure([CANDIDATES["adamw-loop"]], SMALL, rounds=1, device=CPU).copy == ()


def test_state_is_counted_in_bytes_once_a_storage():
    parameter = torch.nn.Parameter(torch.zeros(100))
    optimizer = torch.optim.Adam([parameter])
    assert state_bytes(optimizer) == 0
    parameter.grad = torch.ones(100)
    optimizer.step()
    assert state_bytes(optimizer) == 2 * 400 + 4
    optimizer.state[parameter]["again"] = optimizer.state[parameter]["exp_avg"][:50]
    assert state_bytes(optimizer) == 2 * 400 + 4


def test_the_peak_is_the_height_of_what_is_allocated():
    assert height([5, 3, -3, 4, -9]) == 9
    assert height([-5, 3]) == 0
    assert height([]) == 0


@pytest.mark.parametrize(("settings", "copies"), [({"fused": True}, 0), ({"foreach": True}, 1)])
def test_a_fused_step_needs_nothing_and_a_foreach_step_copies(settings, copies):
    parameter = torch.nn.Parameter(torch.zeros(50_000))
    optimizer = torch.optim.AdamW([parameter], **settings)
    parameter.grad = torch.ones(50_000)
    optimizer.step()
    assert peak_bytes(optimizer.step, CPU) == pytest.approx(copies * 200_000, abs=5_000)


def test_the_height_of_a_step_is_not_its_sum():
    def twice():
        for _ in range(2):
            torch.ones(50_000).sum()

    assert peak_bytes(twice, CPU) == pytest.approx(200_000, abs=5_000)
    assert memory.peak_bytes(lambda: None, CPU) == 0
