"""`multirate compare` from the command line to its files."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
import torch

from multirate.lab import data
from multirate.lab import experiment as experiment_module
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.optimizers.entry import OptimizerEntry

SHORT = ("--epochs", 2)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


class Broken(torch.optim.SGD):
    """Fails in its first step."""

    def step(self, closure=None):
        raise ArithmeticError("this optimizer is broken")


@pytest.fixture
def exploding(add_optimizer):
    add_optimizer(OptimizerEntry("exploding", "torch.optim:SGD", "far too fast", "nobody", {"lr": 1e30}))


@pytest.fixture
def broken(add_optimizer, monkeypatch):
    monkeypatch.setattr(torch.optim, "Broken", Broken, raising=False)
    add_optimizer(OptimizerEntry("broken", "torch.optim:Broken", "raises", "nobody", {"lr": 0.1}))


def test_a_comparison_leaves_rows_curves_pictures_a_page_and_a_table(invoke, tmp_path):
    out = tmp_path / "demo"
    done = invoke("compare", "--optimizers", "adam,adam-cam-hd,multirate", "--seeds", 2, "--out", out, *SHORT)

    assert done.exit_code == 0, done.output
    found = rows(out)
    compilers = ["numba"] if importlib.util.find_spec("numba") else []
    assert [(row["optimizer"], row["seed"]) for row in found] == [
        (name, seed) for seed in (0, 1) for name in ("adam", "adam-cam-hd", "multirate")
    ]
    for row in found:
        assert row["task"] == "digits/ffnn"
        assert row["epochs"] == 2
        assert row["steps"] == 2 * 45
        assert row["diverged"] is False
        assert 0 < row["test_loss"] < 2.3
        assert 0.5 < row["test_accuracy"] <= 1
        assert row["seconds"] > 0
        assert row["command"].startswith("multirate compare --task digits/ffnn --optimizers adam,adam-cam-hd,")
        assert row["versions"].keys() == {"python", "torch", "multirate", "numpy", "scipy", *compilers}
        assert "core" in row["hardware"]
        assert "revision" in row
    assert found[0]["settings"] == {"lr": 1e-3, "fused": True}
    assert found[1]["settings"]["levels"] == ["global", "layer"]

    curves = json.loads((out / "trials" / "digits-ffnn--adam-cam-hd--1.json").read_text())
    assert len(curves["step"]) == len(curves["train_loss"]) == 90
    assert curves["epoch"] == [0, 1, 2]
    assert curves["rate_steps"] == list(range(91))
    assert curves["layer_rates"].keys() == {"hidden1", "hidden2", "output"}
    assert curves["layer_rates"]["output"][0] == pytest.approx(1e-3)
    assert curves["weights"].keys() == {"global", "layer"}
    assert curves["weights"]["layer"][0] == pytest.approx(0.5)
    assert curves["rates"]["layer"].keys() == {"hidden1", "hidden2", "output"}
    assert all(len(series) == 91 for series in curves["agreement"]["layer"].values())

    for name in ("adam-cam-hd", "test loss", "accuracy %", "±", "Welch"):
        assert name in done.output
    for name in ("learning.png", "rates.png", "weights.png"):
        assert f"digits-ffnn-{name}" in done.output
        assert (out / f"digits-ffnn-{name}").read_bytes().startswith(b"\x89PNG")
    assert str(out / "report.html") in done.output
    assert (out / "report.html").stat().st_size > 1_000_000
    assert not list(out.rglob(".*.??*")), "a temporary file was left behind"


def test_finished_trials_are_not_run_again(invoke, tmp_path, monkeypatch):
    assert invoke("compare", "--optimizers", "adam", "--seeds", 1, "--out", tmp_path, *SHORT).exit_code == 0
    first = (tmp_path / "results.jsonl").read_text()

    more = invoke("compare", "--optimizers", "adam,sgdn", "--seeds", 2, "--out", tmp_path, *SHORT)
    assert more.exit_code == 0
    assert "1 finished trial is kept" in more.output
    assert (tmp_path / "results.jsonl").read_text().startswith(first)
    assert {(row["optimizer"], row["seed"]) for row in rows(tmp_path)} == {
        ("adam", 0), ("adam", 1), ("sgdn", 0), ("sgdn", 1),
    }  # fmt: skip
    assert len(rows(tmp_path)) == 4

    monkeypatch.setattr(experiment_module, "run_trials", lambda trials, *_: pytest.fail("ran again") if trials else [])
    again = invoke("compare", "--optimizers", "adam,sgdn", "--seeds", 2, "--out", tmp_path, *SHORT)
    assert again.exit_code == 0, again.output
    assert "4 finished trials are kept" in again.output


def test_trials_kept_from_another_revision_are_pointed_out(invoke, tmp_path, monkeypatch):
    words = ("compare", "--optimizers", "adam", "--seeds", 1, "--out", tmp_path, *SHORT)
    invoke(*words)
    assert "another revision" not in invoke(*words).output
    monkeypatch.setattr(experiment_module, "revision", lambda: "0123456789ab")
    assert "another revision" in invoke(*words).output


def test_processes_give_the_same_numbers_as_one(invoke, tmp_path):
    words = ("compare", "--optimizers", "adam,adam-hd", "--seeds", 1, *SHORT)
    assert invoke(*words, "--out", tmp_path / "one").exit_code == 0
    done = invoke(*words, "--jobs", 2, "--out", tmp_path / "two")
    assert done.exit_code == 0, done.output

    def numbers(folder):
        return {row["optimizer"]: (row["test_loss"], row["test_accuracy"], row["steps"]) for row in rows(folder)}

    assert numbers(tmp_path / "one") == numbers(tmp_path / "two")


def test_a_diverged_run_is_a_result(invoke, tmp_path, exploding):
    words = ("compare", "--optimizers", "adam,exploding", "--seeds", 2, "--out", tmp_path, *SHORT)
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert "exploding seed 0: diverged after" in done.output
    diverged = [row for row in rows(tmp_path) if row["optimizer"] == "exploding"]
    assert [row["diverged"] for row in diverged] == [True, True]
    assert all(row["test_loss"] is None and row["test_accuracy"] is None for row in diverged)
    assert all(0 < row["steps"] < 90 for row in diverged)
    assert "4 finished trials are kept" in invoke(*words).output


def test_a_diverged_run_beside_a_good_seed_stays_out_of_the_mean(invoke, tmp_path):
    invoke("compare", "--optimizers", "adam,sgdn", "--seeds", 2, "--out", tmp_path, *SHORT)
    lines = rows(tmp_path)
    lines[-1] |= {"diverged": True, "test_loss": None, "test_accuracy": None}
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = invoke("report", tmp_path)
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if "sgdn" in line)
    assert [cell.strip() for cell in row.split("│")[6:8]] == ["1", "1"]


def test_a_trial_that_raises_does_not_hold_up_the_others_and_is_tried_again(invoke, tmp_path, broken):
    words = ("compare", "--optimizers", "broken,adam", "--seeds", 1, "--out", tmp_path, *SHORT)
    for _ in range(2):
        done = invoke(*words)
        assert done.exit_code == 1
        assert "1 failed: digits/ffnn broken seed 0" in done.output
        assert "this optimizer is broken" in done.output
        assert [row["optimizer"] for row in rows(tmp_path)] == ["adam"]


def test_when_everything_fails_the_reason_is_shown(invoke, tmp_path, broken):
    done = invoke("compare", "--optimizers", "broken", "--seeds", 1, "--out", tmp_path, *SHORT)
    assert done.exit_code == 1
    assert "this optimizer is broken" in done.output


def test_an_interrupted_comparison_goes_on_where_it_stopped(invoke, tmp_path, monkeypatch):
    words = ("compare", "--optimizers", "adam,sgdn", "--seeds", 1, "--out", tmp_path, *SHORT)
    sentence = experiment_module._sentence

    def interrupt(result):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment_module, "_sentence", interrupt)
    stopped = invoke(*words)
    assert stopped.exit_code == 1
    assert "same command goes on" in stopped.output
    assert [row["optimizer"] for row in rows(tmp_path)] == ["adam"]

    monkeypatch.setattr(experiment_module, "_sentence", sentence)
    assert invoke(*words).exit_code == 0
    assert [row["optimizer"] for row in rows(tmp_path)] == ["adam", "sgdn"]


def test_trials_of_other_lengths_or_settings_do_not_mix(invoke, tmp_path, monkeypatch):
    assert invoke("compare", "--optimizers", "sgdn", "--seeds", 1, "--out", tmp_path, "--epochs", 1).exit_code == 0
    other = invoke("compare", "--optimizers", "adam", "--seeds", 1, "--out", tmp_path, "--epochs", 2)
    assert other.exit_code == 1
    assert "sgdn seed 0 over 1 epochs, not 2" in other.output

    changed = {"sgdn": {"lr": 0.5, "momentum": 0.9, "nesterov": True}}
    monkeypatch.setattr(experiment_module, "trial_settings", lambda trial: changed[trial.optimizer])
    other = invoke("compare", "--optimizers", "sgdn", "--seeds", 2, "--out", tmp_path, "--epochs", 1)
    assert other.exit_code == 1
    assert "no longer its defaults" in other.output
    assert len(rows(tmp_path)) == 1


def test_first_epochs_are_shown_and_a_trial_that_ends_before_them_is_finished(invoke, tmp_path, exploding, monkeypatch):
    words = ("compare", "--optimizers", "adam,exploding", "--seeds", 2, "--epochs", 3, "--out", tmp_path / "first")
    done = invoke(*words, "--first", 2)
    assert done.exit_code == 0, done.output
    told = re.findall(r"^\d/\d.*: digits/ffnn \S+ seed \d: (\w+)", done.output, re.MULTILINE)
    assert told == ["left", "diverged", "left", "diverged", "test", "test"]
    assert str(tmp_path / "first" / "unfinished.md") in done.output
    assert invoke(*words[:-1], tmp_path / "at-once").exit_code == 0

    def numbers(name):
        return {(row["optimizer"], row["seed"]): (row["test_loss"], row["steps"]) for row in rows(tmp_path / name)}

    assert numbers("first") == numbers("at-once")
    assert "--first 2" in rows(tmp_path / "first")[-1]["command"]


def test_as_many_first_epochs_as_there_are_change_nothing(invoke, tmp_path):
    done = invoke("compare", "--optimizers", "adam", "--seeds", 1, "--first", 2, "--out", tmp_path, *SHORT)
    assert done.exit_code == 0, done.output
    assert "left after" not in done.output
    assert "kept from" not in done.output


def test_a_folder_in_use_is_refused(invoke, tmp_path):
    with (tmp_path / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = invoke("compare", "--optimizers", "adam", "--seeds", 1, "--out", tmp_path, *SHORT)
    assert done.exit_code == 1
    assert "another run is writing" in done.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--task", "digits/fnn"], ["--task", "'digits/fnn'", "Did you mean 'digits/ffnn'?"]),
        (["--optimizers", "adam,addam"], ["--optimizers", "'addam'", "Did you mean 'adam'?", *OPTIMIZERS]),
        (["--optimizers", "adam,"], ["--optimizers", "empty name", "'adam,'"]),
        (["--seeds", "0"], ["--seeds", "0"]),
        (["--seeds", "many"], ["--seeds", "'many'"]),
        (["--epochs", "-1"], ["--epochs", "-1"]),
        (["--jobs", "0"], ["--jobs", "0"]),
    ],
)
def test_bad_input_names_the_option_and_the_value(invoke, tmp_path, words, expected):
    done = invoke("compare", *words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    for part in expected:
        assert part in done.output
    assert not (tmp_path / "out").exists()


def test_out_is_required_and_must_not_be_a_file(invoke, tmp_path):
    assert "--out" in invoke("compare").output
    (tmp_path / "file").write_text("")
    done = invoke("compare", "--out", tmp_path / "file")
    assert done.exit_code == 2
    assert "--out" in done.output
    below = invoke("compare", "--out", tmp_path / "file" / "below", "--seeds", 1, *SHORT)
    assert below.exit_code == 1
    assert "cannot write to" in below.output


def test_an_optimizer_that_is_not_installed_is_named_with_its_cure(invoke, tmp_path, add_optimizer):
    add_optimizer(OptimizerEntry("absent", "no_such_package:Absent", "", "", extra="bench"))
    done = invoke("compare", "--optimizers", "adam,absent", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "no_such_package" in done.output
    assert "pip install 'multirate[bench]'" in done.output
    assert not (tmp_path / "out").exists()


def test_names_may_be_repeated_and_options_too(invoke, tmp_path):
    words = ("--optimizers", "adam, sgdn", "--optimizers", "adam", "--seeds", 1, "--out", tmp_path)
    assert invoke("compare", *words, *SHORT).exit_code == 0
    assert [row["optimizer"] for row in rows(tmp_path)] == ["adam", "sgdn"]


def test_trials_of_other_machines_do_not_mix(invoke, tmp_path):
    words = ("compare", "--optimizers", "adam", "--out", tmp_path, *SHORT)
    assert invoke(*words, "--seeds", 1).exit_code == 0
    other = invoke(*words, "--seeds", 2, "--bf16")
    assert other.exit_code == 1
    assert "bf16 False" in other.output
    assert "not device cpu, bf16 True" in " ".join(other.output.split())
    assert len(rows(tmp_path)) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--optimizers", "adam:speed=3"), ["adam:speed=3 on digits/ffnn", "speed"]),
        (("--optimizers", "adam:lr=-1.0"), ["adam:lr=-1.0", "Invalid learning rate"]),
        (("--optimizers", "adam:lr=inf"), ["--optimizers", "not a finite number"]),
        (("--optimizers", "adam+fast"), ["--optimizers", "unknown schedule 'fast'", "cosine"]),
        (("--optimizers", "adam:lr"), ["--optimizers", "NAME[:OPTION=VALUE]...[+SCHEDULE]"]),
        (("--optimizers", "forward-mode", "--compile"), ["second derivatives", "leave out --compile"]),
        (("--device", "abacus"), ["--device", "'abacus' is not available here"]),
    ],
)
def test_wrong_options_are_told_before_anything_is_trained(invoke, tmp_path, words, expected):
    done = invoke("compare", *words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    output = " ".join(done.output.split())
    for part in expected:
        assert part in output
    assert not (tmp_path / "out").exists()


def test_a_sweep_varies_one_option_of_every_optimizer(invoke, tmp_path):
    words = ("sweep", "--optimizers", "adam,adam-hd:hyper_lr=1e-7", "--values", "1e-4,1e-3,1e-2", "--seeds", 1)
    done = invoke(*words, "--epochs", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert [row["optimizer"] for row in rows(tmp_path)] == [
        *(f"adam:lr={value}" for value in ("0.0001", "0.001", "0.01")),
        *(f"adam-hd:hyper_lr=1e-07:lr={value}" for value in ("0.0001", "0.001", "0.01")),
    ]
    assert [row["settings"]["lr"] for row in rows(tmp_path)] == [1e-4, 1e-3, 1e-2] * 2
    assert (tmp_path / "digits-ffnn-robustness.png").exists()


def test_the_baselines_of_a_comparison_are_kept_for_later_reports(invoke, tmp_path):
    words = ("--optimizers", "adam,adam-hd,sgdn", "--baseline", "adam-hd", "--baseline", "adam", "--seeds", 2)
    done = invoke("compare", *words, *SHORT, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "--baseline adam-hd --baseline adam" in rows(tmp_path)[0]["command"]
    (tmp_path / "tables.md").unlink()
    assert invoke("report", tmp_path).exit_code == 0
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "| `sgdn` | `adam-hd` |" in text
    assert "| `sgdn` | `adam` |" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--baseline", "sgdn"], "'sgdn' is not among the --optimizers"),
        (["--baseline", "adam", "--baseline", "adam-hd"], "all --optimizers are baselines"),
        (["--baseline", "addam"], "Did you mean 'adam'?"),
    ],
)
def test_a_baseline_must_be_run_and_leave_something_to_compare(invoke, tmp_path, words, expected):
    done = invoke("compare", "--optimizers", "adam,adam-hd", *words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert expected in " ".join(done.output.split())
    assert "--baseline" in done.output
    assert not (tmp_path / "out").exists()


def test_the_baseline_of_a_sweep_is_an_optimizer_at_its_best_value(invoke, tmp_path):
    words = ("--optimizers", "adamw,multirate-adamw", "--option", "weight_decay", "--values", "0.01,0.1,0.3")
    done = invoke("sweep", *words, "--baseline", "multirate-adamw", "--seeds", 1, "--epochs", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "digits-ffnn-sweep-weight-decay.png").read_bytes().startswith(b"\x89PNG")
    found = {row["optimizer"]: row["test_loss"] for row in rows(tmp_path) if "multirate" in row["optimizer"]}
    best = min(found, key=found.__getitem__)
    assert f"Differences: to {best}." in (tmp_path / "tables.md").read_text(encoding="utf-8")


def test_a_sweep_covers_seven_decades_of_learning_rates_unless_told_otherwise(invoke, tmp_path):
    done = invoke("sweep", "--optimizers", "adam", "--seeds", 1, "--epochs", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    rates = [row["settings"]["lr"] for row in rows(tmp_path)]
    assert rates == [10.0**power for power in range(-7, 1)]
    assert math.log10(max(rates) / min(rates)) == pytest.approx(7)


def test_data_that_are_not_there_are_told_in_a_sentence(invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    words = ("--task", "mnist/ffnn-100-100", "--optimizers", "adam", "--seeds", 1, "--data-dir", tmp_path / "empty")
    monkeypatch.setenv("MULTIRATE_DATA", "")
    data.images.mnist.cache_clear()
    done = invoke("compare", *words, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "mnist/train.parquet" in done.output
    assert "Traceback" not in done.output


def test_what_a_sweep_varies_is_not_set_already(invoke, tmp_path):
    done = invoke("sweep", "--optimizers", "adam:lr=0.1", "--values", "1e-3,1e-2", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "adam:lr=0.1 sets lr already" in " ".join(done.output.split())


def test_missing_data_are_told_before_anything_is_trained(invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MULTIRATE_DATA", str(tmp_path))
    data.images.mnist.cache_clear()
    done = invoke("compare", "--task", "digits/ffnn,mnist/logistic", "--optimizers", "adam", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "mnist/train.parquet" in done.output
    assert not (tmp_path / "out").exists()
