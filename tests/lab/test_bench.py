"""The step-time bench, on parameters small enough for a test."""

import json
import math

import pytest
import torch

from multirate.lab.bench import CANDIDATES, Timing, measure, rows, state_bytes
from multirate.lab.commands import bench as bench_command
from multirate.lab.optimizers.entry import OptimizerEntry
from multirate.lab.resnet50 import resnet50_shapes

SMALL = {"first.weight": (8, 4), "first.bias": (8,), "norm.weight": (8,)}


class Greedy(torch.optim.SGD):
    """Overwrites the gradients it is given, as a published optimizer does."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.fill_(math.nan)


def test_shapes_are_those_of_resnet_50():
    shapes = resnet50_shapes()
    assert len(shapes) == 161
    assert sum(math.prod(shape) for shape in shapes.values()) == 25_557_032
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["fc.weight"] == (1000, 2048)


def test_an_optimizer_that_spoils_its_gradients_spoils_nobody_else_s(monkeypatch):
    monkeypatch.setattr(torch.optim, "Greedy", Greedy, raising=False)
    seen = []
    step = torch.optim.Adam.step

    def watched(self, closure=None):
        seen.extend(float(parameter.grad.sum()) for parameter in self.param_groups[0]["params"])
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    greedy = OptimizerEntry("greedy", "torch.optim:Greedy", "", "")
    measure([greedy, CANDIDATES["adam-loop"]], SMALL, rounds=4)
    assert len(seen) == 7 * len(SMALL)
    assert all(math.isfinite(value) for value in seen)


def test_state_is_counted_in_bytes_once_a_storage():
    parameter = torch.nn.Parameter(torch.zeros(100))
    optimizer = torch.optim.Adam([parameter])
    assert state_bytes(optimizer) == 0
    parameter.grad = torch.ones(100)
    optimizer.step()
    assert state_bytes(optimizer) == 2 * 400 + 4
    optimizer.state[parameter]["again"] = optimizer.state[parameter]["exp_avg"][:50]
    assert state_bytes(optimizer) == 2 * 400 + 4


def test_ratios_are_to_the_faster_plain_path_of_torch():
    timings = [
        Timing("adam-loop", "loop", (0.2, 0.4, 0.3), 8, 1),
        Timing("adam-foreach", "foreach", (0.1, 0.1, 0.4), 8, 1),
        Timing("adam-fused", "fused", (0.05, 0.05, 0.05), 8, 1),
    ]
    assert [row["ratio"] for row in rows(timings)] == ["3.00", "1.00", "0.50"]
    assert rows(timings)[0] == {
        "optimizer": "loop", "median ms": "300.0", "min ms": "200.0", "max ms": "400.0", "ratio": "3.00",
        "state bytes/parameter": "8.00",
    }  # fmt: skip
    assert rows(timings[2:])[0]["ratio"] == "–"


def test_the_command_measures_every_candidate_and_keeps_raw_times(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_command, "resnet50_shapes", lambda: SMALL)
    done = invoke("bench", "--rounds", 3, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "speed.json").read_text())
    assert [timing["name"] for timing in kept["timings"]] == list(CANDIDATES)
    assert all(len(timing["seconds"]) == 3 and min(timing["seconds"]) > 0 for timing in kept["timings"])
    assert kept["threads"] == torch.get_num_threads()
    assert kept["command"].startswith("multirate bench --rounds 3 --threads ")
    table = (tmp_path / "speed.md").read_text()
    for entry in CANDIDATES.values():
        assert f"| {entry.description} |" in table
        assert entry.description in done.output


def test_candidates_that_are_not_installed_are_left_out(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_command, "resnet50_shapes", lambda: SMALL)
    monkeypatch.setattr(OptimizerEntry, "installed", property(lambda entry: entry.package != "prodigyopt"))
    done = invoke("bench", "--rounds", 1, "--optimizers", "adam-loop,prodigy", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "Left out: prodigy. pip install 'multirate[bench]' brings them." in done.output
    nothing = invoke("bench", "--rounds", 1, "--optimizers", "prodigy", "--out", tmp_path)
    assert nothing.exit_code == 1
    assert "nothing is left" in nothing.output


@pytest.mark.parametrize("words", [("--rounds", "0"), ("--optimizers", "adma"), ("--threads", "0")])
def test_bad_input_is_named(invoke, tmp_path, words):
    done = invoke("bench", *words, "--out", tmp_path)
    assert done.exit_code == 2
    assert words[0] in done.output
    assert words[1] in done.output
