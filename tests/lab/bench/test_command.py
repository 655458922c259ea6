"""The command, from words to files."""

import json

import pytest
import torch

from multirate.lab.bench.candidates import CANDIDATES
from multirate.lab.bench.goals import GOALS
from multirate.lab.optimizers.entry import OptimizerEntry

FEW = "adamw-loop,adamw-foreach,adamw-fused,cam-hd-layer,adamw-self,prodigy"
PNG = b"\x89PNG"


def test_the_command_measures_everything_and_keeps_raw_times(invoke, tmp_path):
    done = invoke("bench", "--quick", "--rounds", 2, "--optimizers", FEW, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "speed.json").read_text())
    assert [case["case"] for case in kept["cases"]] == ["resnet18", "gpt2", "vit", "flat", "tiny"]
    for case in kept["cases"]:
        (group,) = case["groups"]
        assert [each["name"] for each in group["optimizers"]] == FEW.split(",")
        assert all(len(each["seconds"]) == 2 and min(each["seconds"]) > 0 for each in group["optimizers"])
        assert len(group["copy"]) == len(group["read"]) == 2
    assert kept["threads"] == torch.get_num_threads()
    assert kept["versions"]["prodigyopt"]
    assert kept["hardware"]
    assert kept["command"].startswith("multirate bench --rounds 2 --threads ")
    assert {row["sweep"] for row in kept["growth"]} == {"parameters", "tensors"}
    assert {row["workload"] for row in kept["training"]} == {"resnet18", "gpt"}
    assert [each["name"] for each in kept["compilations"]] == ["cam-hd-layer", "adamw-self"]
    taken_apart = {each["optimizer"]: each for each in kept["profiles"]["optimizers"]}
    assert {name: [*each["passes"]] for name, each in taken_apart.items()} == {
        "cam-hd-layer": ["measure", "apply"], "adamw-self": ["look", "advance"], "adamw-fused": [],
    }  # fmt: skip
    for each in taken_apart.values():
        assert all(len(times) == 2 for times in (each["seconds"], *each["passes"].values()))
    table = (tmp_path / "speed.md").read_text()
    assert "A trial with small sizes" in table
    for text in (*(CANDIDATES[name].description for name in FEW.split(",")), *(goal.text for goal in GOALS)):
        assert f"| {text} |" in table
    for name in ("ratios", "growth"):
        assert f"speed-{name}.png" in table
        assert (tmp_path / f"speed-{name}.png").read_bytes().startswith(PNG)


def test_parts_and_cases_can_be_left_out(invoke, tmp_path):
    words = ("--parts", "steps", "--cases", "flat", "--optimizers", "cam-hd-layer")
    done = invoke("bench", "--quick", "--rounds", 1, *words, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "speed.json").read_text())
    assert [case["case"] for case in kept["cases"]] == ["flat"]
    assert kept["growth"] == kept["training"] == kept["compilations"] == []
    assert kept["profiles"] is None
    # Without an AdamW there is no ratio to draw.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.json", "speed.md"]
    assert "## Growth" not in (tmp_path / "speed.md").read_text()


def test_where_no_aim_was_looked_at_none_is_told(invoke, tmp_path):
    done = invoke("bench", "--quick", "--parts", "compiling", "--optimizers", "adam-hd", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "speed.md").read_text()
    for told in (done.output, text):
        assert "Compiling" in told
        assert CANDIDATES["adam-hd"].description in told
        assert "Goals" not in told
    assert "How to read this: docs/performance.md" in text


@pytest.mark.parametrize(("out", "link"), [("results", "../docs"), ("results/speed/small", "../../../docs")])
def test_the_guide_is_linked_to_from_wherever_the_results_lie_in_a_checkout(invoke, tmp_path, out, link):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance.md").touch()
    words = ("--parts", "compiling", "--optimizers", "prodigy")
    done = invoke("bench", "--quick", *words, "--out", tmp_path / out)
    assert done.exit_code == 0, done.output
    assert f"[How to read this]({link}/performance.md)" in (tmp_path / out / "speed.md").read_text()


def test_candidates_that_are_not_installed_are_left_out(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(OptimizerEntry, "installed", property(lambda entry: entry.package != "prodigyopt"))
    words = ("bench", "--quick", "--rounds", 1, "--parts", "steps", "--cases", "flat")
    done = invoke(*words, "--optimizers", "adamw-loop,prodigy", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "Left out: prodigy. pip install 'multirate[bench]' brings them." in done.output
    assert "Left out: prodigy (not installed)." in (tmp_path / "speed.md").read_text()
    nothing = invoke(*words, "--optimizers", "prodigy", "--out", tmp_path)
    assert nothing.exit_code == 1
    assert "nothing is left" in nothing.output


def test_candidates_that_cannot_take_a_step_are_left_out(invoke, tmp_path, monkeypatch):
    def broken(self, closure=None):
        raise RuntimeError("no compiler")

    monkeypatch.setattr("multirate.AdamHD.step", broken)
    words = ("bench", "--quick", "--rounds", 1, "--parts", "compiling,steps", "--cases", "flat")
    done = invoke(*words, "--optimizers", "adamw-loop,adam-hd", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "speed.json").read_text())
    assert kept["left_out"] == {"adam-hd": "RuntimeError: no compiler"}
    assert kept["optimizers"] == ["adamw-loop"]


@pytest.mark.parametrize(
    "words",
    [("--rounds", "0"), ("--optimizers", "adma"), ("--threads", "0"), ("--cases", "lenet"), ("--device", "tpu")],
)
def test_bad_input_is_named(invoke, tmp_path, words):
    done = invoke("bench", *words, "--out", tmp_path)
    assert done.exit_code == 2
    assert words[0] in done.output
    assert words[1] in done.output
