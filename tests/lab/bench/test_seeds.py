"""Several seeds at once: the same training, and what it costs."""

import json
import time

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from multirate.lab.bench import learners as lab_learners
from multirate.lab.bench.learners import Batched, Learner, Successive
from multirate.lab.bench.seeds import Processes, SeedsTiming, measure_seeds, rows
from multirate.lab.commands import seeds as commands_seeds
from multirate.lab.commands.seeds import seeds as command
from multirate.lab.data import images
from multirate.lab.optimizers.entry import OptimizerEntry
from multirate.lab.registry import Registry
from multirate.lab.results import Trial
from multirate.lab.trial import run_trial

TASK = "digits/ffnn"
OPTIMIZERS = ("adam", "adam-cam-hd")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learners(optimizer, count=3):
    return [Learner(TASK, optimizer, seed) for seed in range(count)]


def timing(**fields):
    return SeedsTiming(
        **{
            "task": TASK, "optimizer": "adam", "seeds": 10, "steps": 100, "optimizers": 1, "one": (1.0, 2.0, 4.0),
            "successive": (10.0, 22.0, 36.0), "batched": (3.0, 4.0, 16.0), "processes": (5.5, 12.0, 20.0),
            "jobs": 2, "difference": 1e-6, "cores": 4, "device": "cpu", **fields,
        }
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_batched_training_is_that_of_every_seed_alone(optimizer):
    separate, together = learners(optimizer), learners(optimizer)
    # 50 steps pass an epoch's last, smaller batch.
    expected, batch = Successive(separate).train(50), Batched(together)
    torch.testing.assert_close(batch.train(50), expected, rtol=1e-4, atol=1e-5)
    for index, learner in enumerate(separate):
        for name, parameter in learner.problem.model.named_parameters():
            torch.testing.assert_close(batch._stacked[name][index].detach(), parameter.detach(), rtol=1e-3, atol=1e-5)


def test_a_seed_sees_what_a_trial_with_this_seed_sees():
    outcome = run_trial(Trial(TASK, "adam", 1, epochs=1))
    losses = Successive([Learner(TASK, "adam", 1)]).train(outcome.result.steps)
    assert outcome.curves["train_loss"] == pytest.approx(losses[0].tolist(), rel=1e-5)


def test_an_optimizer_that_mixes_elements_would_mix_seeds_in_one_stack(monkeypatch):
    """The reason for one optimizer a seed."""
    expected = Successive(learners("adam-cam-hd")).train(30)
    monkeypatch.setattr(lab_learners, "ELEMENTWISE", ("multirate:AdamCAMHD",))
    mixed = Batched(learners("adam-cam-hd")).train(30)
    assert (mixed - expected).abs().max() > 1e-3


def test_what_is_measured():
    rounds = []
    measured = measure_seeds(TASK, "adam-cam-hd", 2, 12, rounds=2, jobs=5, on_round=lambda: rounds.append(1))
    assert len(rounds) == 2
    assert (measured.task, measured.optimizer, measured.seeds, measured.steps) == (TASK, "adam-cam-hd", 2, 12)
    assert measured.optimizers == 2
    assert measured.jobs == 2
    for seconds in (measured.one, measured.successive, measured.batched, measured.processes):
        assert len(seconds) == 2
        assert min(seconds) > 0
    assert 0 <= measured.difference < 1e-3
    assert measure_seeds(TASK, "adam", 2, 1, rounds=1, jobs=1).optimizers == 1


def test_processes_train_what_one_trains_and_are_timed_without_their_start():
    expected = Successive(learners("adam")).train(20)
    with Processes(TASK, "adam", 3, jobs=2) as processes:
        begun = time.perf_counter()
        train = processes.ready(20)
        ready = time.perf_counter()
        assert torch.equal(train(), expected)
        # Everybody had started and made their learners, which takes far longer, before the clock was started.
        assert time.perf_counter() - ready < (ready - begun) / 3
        assert torch.equal(processes.ready(20)(), expected)


def test_a_cost_is_the_median_of_ratios_within_a_round():
    assert timing().cost(timing().successive) == 10.0  # of 10, 11, 9
    assert timing().cost(timing().batched) == 3.0  # of 3, 2, 4
    assert timing().cost(timing().processes) == 5.5  # of 5.5, 6, 5
    (row,) = rows([timing()])
    assert row == {
        "task": TASK,
        "optimizer": "adam",
        "device": "cpu",
        "seeds": "10",
        "one seed, ms a step": "20.00",
        "one after another": "10.0",
        "batched": "3.0",
        "optimizers in the batch": "1",
        "2 processes": "5.5",
        "largest difference of a loss": "1.0e-06",
    }


class Curious(torch.optim.SGD):
    needs = "loss"


def test_what_cannot_be_batched_is_named(monkeypatch):
    with pytest.raises(ValueError, match="task 'quadratic/noisy' cannot be batched: choose a classification task"):
        measure_seeds("quadratic/noisy", "adam", 2, 1)
    with pytest.raises(ValueError, match="seeds must be at least 2, got 1"):
        measure_seeds(TASK, "adam", 1, 1)
    monkeypatch.setattr(torch.optim, "Curious", Curious, raising=False)
    table = Registry("optimizer", [OptimizerEntry("curious", "torch.optim:Curious", "", "")])
    monkeypatch.setattr(lab_learners, "OPTIMIZERS", table)
    learner = Learner(TASK, "adam", 0)
    learner.optimizer_name = "curious"
    with pytest.raises(ValueError, match="optimizer 'curious' cannot be batched"):
        learner.build_optimizer({"weight": nn.Parameter(torch.zeros(1))})


def test_the_command_writes_its_table_and_how_to_make_it_again(tmp_path):
    out = tmp_path / "seeds"
    words = ["--task", TASK, "--optimizers", "adam", "--seeds", "2", "--steps", "3", "--rounds", "1"]
    words += ["--jobs", "2", "--out", str(out)]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    assert done.exit_code == 0
    kept = json.loads((out / "seeds.json").read_text())
    assert kept["command"] == f"multirate seeds {' '.join(words)}"
    assert {"hardware", "versions", "revision"} < kept.keys()
    assert [each["optimizer"] for each in kept["timings"]] == ["adam"]
    table = (out / "seeds.md").read_text()
    assert "| task | optimizer | device | seeds | one seed, ms a step | one after another | batched |" in table
    assert table.splitlines()[-1] in done.output


FEW = ("--seeds", "2", "--steps", "1", "--rounds", "1", "--jobs", "1")


def test_a_device_is_named_and_must_be_there(invoke, tmp_path, monkeypatch):
    done = invoke("seeds", "--optimizers", "adam", *FEW, "--device", "cpu", "--out", tmp_path / "cpu")
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "cpu" / "seeds.json").read_text())
    assert "--device" not in kept["command"]
    assert [each["device"] for each in kept["timings"]] == ["cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("cuda", "abacus"):
        done = invoke("seeds", *FEW, "--device", name, "--out", tmp_path / name)
        assert done.exit_code == 2
        message = " ".join(done.output.replace("│", " ").split())
        assert f"Invalid value for '--device': device '{name}' is not available here: choose auto or cpu" in message
        assert not (tmp_path / name).exists()
        with pytest.raises(ValueError, match=f"device '{name}' is not available here"):
            measure_seeds(TASK, "adam", 2, 1, device=name)


def test_the_device_reaches_everything_that_is_measured(invoke, tmp_path, monkeypatch):
    """The device of the command, without a GPU."""
    asked = []

    def measure(task, optimizer, seeds, steps, **options):
        asked.append(options["device"])
        return timing(device=options["device"])

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Abacus {device.index}")
    monkeypatch.setattr(commands_seeds, "measure_seeds", measure)
    done = invoke("seeds", "--optimizers", "adam", *FEW, "--device", "cuda:1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert asked == ["cuda:1"]
    kept = json.loads((tmp_path / "seeds.json").read_text())
    assert " --device cuda:1 --out " in kept["command"]
    assert kept["hardware"].endswith("Abacus 1")
    assert "| digits/ffnn | adam | cuda:1 | 10 |" in (tmp_path / "seeds.md").read_text()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_on_a_gpu_all_ways_train_there(optimizer):
    learner = Learner(TASK, optimizer, 0, "cuda")
    assert {parameter.device.type for parameter in learner.problem.model.parameters()} == {"cuda"}
    measured = measure_seeds(TASK, optimizer, 2, 12, rounds=1, device="cuda")
    assert measured.device == "cuda"
    assert measured.difference < 1e-3


def test_missing_data_are_told_in_a_sentence(invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MULTIRATE_DATA", str(tmp_path / "nowhere"))
    images.mnist.cache_clear()
    words = ("seeds", "--task", "mnist/logistic", "--optimizers", "adam", *FEW, "--out", tmp_path / "out")
    done = invoke(*words)
    assert done.exit_code == 2
    assert "--data-dir" in done.output
    assert "nowhere" in done.output
    # An option goes over the variable.
    (tmp_path / "empty").mkdir()
    done = invoke(*words, "--data-dir", tmp_path / "empty")
    assert done.exit_code == 1
    message = "".join(done.output.split())
    assert "Error:mnist:" in message
    assert f"{tmp_path}/empty/mnist/train.parquetismissing" in message
    assert not (tmp_path / "out").exists()
