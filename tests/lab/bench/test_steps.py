"""Groups that fit into memory, and what the times of a case come to."""

import pytest
import torch

from multirate.lab.bench import steps
from multirate.lab.bench.candidates import CANDIDATES
from multirate.lab.bench.measuring import Measured, Rounds
from multirate.lab.bench.shapes import CASES, tiny_shapes
from multirate.lab.bench.steps import CaseRounds, bandwidths, groups_of, run_case, timings
from multirate.lab.bench.tables import step_rows

CPU = torch.device("cpu")
BASELINES = ["adamw-loop", "adamw-foreach", "adamw-fused"]


def names(groups):
    return [[candidate.name for candidate in group] for group in groups]


def measured(name, *seconds, host=(0.001,), state=8, peak=0, first=1.0):
    return Measured(name, seconds, host, first, state, peak)


def rounds(*optimizers, copied=1000, copy=(1e-6,), read=(2e-6,)):
    return Rounds(optimizers, copied, copy, read)


def case(*groups, parameters=1000, host=None):
    return CaseRounds("gpt2", "GPT-2 small", True, parameters, 10, groups, host)


def test_every_group_holds_the_baselines_and_all_fit():
    chosen = [CANDIDATES[name] for name in (*BASELINES, "cam-hd-layer", "prodigy", "adamw-self")]
    # 4 bytes times: 2 shared, 3 · 3 baselines, then 3, 5 and 4.
    assert names(groups_of(chosen, 1, limit=4 * 19)) == [
        [*BASELINES, "cam-hd-layer", "prodigy"], [*BASELINES, "adamw-self"],
    ]  # fmt: skip
    assert names(groups_of(chosen, 1, limit=4 * 23)) == [[*BASELINES, "cam-hd-layer", "prodigy", "adamw-self"]]
    assert names(groups_of(chosen, 1, limit=0)) == [
        [*BASELINES, each] for each in ("cam-hd-layer", "prodigy", "adamw-self")
    ]
    assert names(groups_of(chosen[:2], 1)) == [BASELINES[:2]]


def test_ratios_are_to_the_fastest_adamw_of_the_same_rounds():
    first = rounds(measured("adamw-loop", 0.4), measured("adamw-fused", 0.1), measured("adam-hd", 0.2))
    second = rounds(measured("adamw-loop", 0.4), measured("adamw-fused", 0.2), measured("prodigy", 0.2))
    found = {timing.candidate.name: timing for timing in timings(case(first, second))}
    assert list(found) == ["adamw-loop", "adamw-fused", "adam-hd", "prodigy"]
    assert found["adam-hd"].ratio == pytest.approx(2.0)
    assert found["prodigy"].ratio == pytest.approx(1.0)
    assert found["adamw-fused"].ratio == pytest.approx(1.0)
    assert found["adamw-fused"].seconds == (0.1, 0.2)
    assert found["adamw-loop"].ratio == pytest.approx(0.4 / 0.15)
    (alone,) = timings(case(rounds(measured("prodigy", 0.2))))
    assert alone.ratio is None
    assert step_rows([alone])[0]["ratio"] == "–"


def test_the_share_is_of_the_bandwidth_of_copying():
    # 8 bytes times 1000 elements in a microsecond is 8 GB/s; 40 bytes times 1000 in 10 microseconds half of that.
    result = case(rounds(measured("adamw-fused", 7e-6), measured("cam-hd-layer", 1e-5, state=8004, peak=2_500_000)))
    assert bandwidths(result) == (pytest.approx(8e9), pytest.approx(4e9))
    fused, own = timings(result)
    assert own.bandwidth == pytest.approx(4e9)
    assert own.share == pytest.approx(0.5)
    assert fused.share == pytest.approx(0.5)
    row = step_rows([own])[0]
    assert (row["bytes moved"], row["% of copy"], row["state"], row["peak MB"]) == ("40", "50", "8.00", "2.5")
    without = case(rounds(measured("cam-hd-layer", 1e-5), copied=0, copy=(), read=()))
    assert bandwidths(without) is None
    assert timings(without)[0].share is None


def test_host_time_on_a_cpu_is_that_of_as_many_small_tensors():
    group = rounds(measured("adamw-fused", 0.1, host=(0.1,)), measured("cam-hd-layer", 0.2, host=(0.2,)))
    host = rounds(measured("adamw-fused", 0.01, host=(0.01,)), measured("cam-hd-layer", 0.03, host=(0.03,)), copied=0)
    assert timings(case(group))[1].host == 0.2
    own = timings(case(group, host=host))[1]
    assert own.host == 0.03
    assert own.host_ratios == {"adamw-fused": pytest.approx(3.0)}


def test_a_case_is_measured_with_small_twins_for_the_host(monkeypatch):
    shapes, done = {"0.weight": (8, 8), "0.bias": (8,)}, []
    chosen = [CANDIDATES[name] for name in ("adamw-fused", "cam-hd-layer", "heavyball")]
    result = run_case(
        CASES["resnet18"], shapes, chosen, rounds=2, device=CPU, copied=16, on_group=lambda: done.append(1)
    )
    assert (result.case, result.parameters, result.tensors, len(done)) == ("resnet18", 72, 2, 2)
    # heavyball would compile for every one of many tensors.
    assert [each.name for each in result.groups[0].optimizers] == ["adamw-fused", "cam-hd-layer"]
    assert [len(each.seconds) for each in result.host.optimizers] == [4, 4]
    assert result.host.copied == 0
    assert all(timing.peak is not None for timing in timings(result))
    monkeypatch.setattr(steps, "MANY", 2)
    (long,) = run_case(CASES["gpt2"], shapes, chosen[:1], rounds=3, device=CPU, copied=16).groups
    assert len(long.optimizers[0].seconds) == 2  # half of the rounds, and memory is not followed
    assert long.optimizers[0].peak_bytes is None
    tiny = run_case(CASES["tiny"], tiny_shapes(4), chosen, rounds=1, device=CPU, copied=16)
    assert tiny.host is None
    assert run_case(CASES["tiny"], tiny_shapes(4), chosen[2:], rounds=1, device=CPU, copied=16) is None
