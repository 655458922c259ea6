"""One trial."""

import dataclasses
import functools
import json
import math
import time

import pytest
import torch

from multirate.lab.circumstances import Circumstances
from multirate.lab.data.digits import digits
from multirate.lab.data.text import Text
from multirate.lab.machine import Machine
from multirate.lab.models.transformer import Transformer
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.optimizers.entry import OptimizerEntry
from multirate.lab.problems.analytic import Quadratic
from multirate.lab.problems.classification import Classification
from multirate.lab.problems.language import Language
from multirate.lab.registry import Registry
from multirate.lab.results import Trial, TrialResult
from multirate.lab.tasks import TASKS
from multirate.lab.trial import run_trial, trial_settings


def without_times(outcome):
    return {name: curve for name, curve in outcome.curves.items() if name != "epoch_seconds"}


def test_a_trial_gives_the_same_curves_again_and_leaves_the_random_state_alone():
    trial = Trial("digits/ffnn", "adam", seed=3, epochs=1)
    torch.manual_seed(11)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = run_trial(trial)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.rand(5)
    second = run_trial(trial)
    assert without_times(second) == without_times(first)
    assert run_trial(Trial("digits/ffnn", "adam", seed=4, epochs=1)).curves["test_loss"] != first.curves["test_loss"]


def test_all_optimizers_start_from_the_same_model_and_see_the_same_examples():
    """The first loss depends on nothing but the initial model and the first batch."""
    outcomes = [run_trial(Trial("digits/ffnn", name, 0, 1)) for name in ("adam", "sgdn", "adamw")]
    assert len({outcome.curves["train_loss"][0] for outcome in outcomes}) == 1
    assert len({outcome.curves["test_loss"][0] for outcome in outcomes}) == 1


# At their defaults these need longer than three epochs to get going; the last never does here.
SLOW = {"d-adapt-adam", "meta-optimize", "meta-optimize-layer", "d-adapt-sgd"}
STUCK = {"d-adapt-sgd"}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_learns_the_digits(name):
    outcome = run_trial(Trial("digits/ffnn", name, seed=0, epochs=3))
    assert not outcome.result.diverged
    assert outcome.curves["test_loss"][-1] < (2.4 if name in STUCK else outcome.curves["test_loss"][0])
    assert outcome.result.test_accuracy > (0.05 if name in SLOW else 0.5)
    assert outcome.curves["layer_rates"].keys() == {"hidden1", "hidden2", "output"}


@pytest.mark.parametrize("name", ["schedule-free", "dog"])
def test_iterates_that_are_averaged_are_the_ones_evaluated(name, monkeypatch):
    """Schedule-Free and DoG train at one point and are meant to be used at another."""
    points = []
    evaluate = Classification.evaluate
    step = Classification.loss

    def point(problem):
        return torch.cat([parameter.detach().flatten() for parameter in problem.model.parameters()])

    monkeypatch.setattr(Classification, "evaluate", lambda self: points.append(point(self)) or evaluate(self))
    monkeypatch.setattr(Classification, "loss", lambda self, batch: points.append(point(self)) or step(self, batch))
    run_trial(Trial("digits/ffnn", name, seed=0, epochs=2))
    assert len(points) == 3 + 2 * 45
    # Evaluated at the start, after 45 steps and after 90; the training point of the next step lies elsewhere.
    assert torch.equal(points[0], points[1])
    assert not torch.equal(points[46], points[47])


def test_the_task_s_protocol_goes_over_the_optimizer_s_defaults():
    settings = trial_settings(Trial("digits/ffnn", "adam-cam-hd", 0, 1))
    assert settings == {
        "lr": 1e-3,
        "levels": ("global", "layer"),
        "weights": (0.5, 0.5),
        "hyper_lr": 1e-7,
        "weight_lr": 0.01,
    }
    assert trial_settings(Trial("digits/ffnn", "multirate", 0, 1)) == {}
    for task in TASKS.values():
        assert task.settings.keys() <= OPTIMIZERS.keys()


def test_a_variant_s_options_go_over_the_task_s_protocol():
    settings = trial_settings(Trial("digits/ffnn", "adam-cam-hd:lr=0.01:levels=global/unit+cosine", 0, 1))
    assert settings["lr"] == 0.01
    assert settings["levels"] == ("global", "unit")
    assert settings["hyper_lr"] == 1e-7


def test_evaluation_is_the_mean_over_all_examples_however_they_are_batched(monkeypatch):
    torch.manual_seed(0)
    problem = TASKS["digits/ffnn"].problem(torch.device("cpu"), None)
    data = digits()
    with torch.no_grad():
        scores = problem.model(data.test_inputs)
        expected = torch.nn.functional.cross_entropy(scores, data.test_targets).item()
        right = (scores.argmax(1) == data.test_targets).double().mean().item()
        monkeypatch.setattr("multirate.lab.problems.classification.EVALUATION_BATCH", 7)
        measured = problem.evaluate()
    assert measured == {"loss": pytest.approx(expected, rel=1e-6), "accuracy": pytest.approx(right)}


def test_a_fold_is_what_is_evaluated(monkeypatch):
    seen = []
    evaluate = Classification.evaluate
    monkeypatch.setattr(Classification, "evaluate", lambda self: seen.append(len(self._test_targets)) or evaluate(self))
    outcome = run_trial(Trial("digits/ffnn", "adam", 0, 1, fold=1))
    assert set(seen) == {288}
    assert outcome.result.steps == 36
    with pytest.raises(ValueError, match="classification"):
        run_trial(Trial("quadratic/noisy", "adam", 0, 1, fold=1))


def test_patience_ends_a_run_that_no_longer_improves():
    patient = run_trial(Trial("digits/ffnn", "adam:lr=0.01", seed=0, epochs=60, patience=3))
    losses = patient.curves["test_loss"][1:]
    best = losses.index(min(losses)) + 1
    assert patient.result.best_epoch == best
    assert len(losses) == best + 3 < 60
    assert patient.result.steps == len(losses) * 45
    whole = run_trial(Trial("digits/ffnn", "adam:lr=0.01", seed=0, epochs=len(losses)))
    assert whole.curves["test_loss"] == patient.curves["test_loss"]


@pytest.mark.parametrize(
    ("schedule", "last"), [("cosine", 0.0), ("linear", 0.0), ("step", 0.1), ("exponential", 0.01), ("time", 0.1)]
)
def test_a_schedule_reaches_its_end_with_the_run(schedule, last):
    outcome = run_trial(Trial("digits/ffnn", f"adam:lr=0.01+{schedule}", seed=0, epochs=2))
    rates = outcome.curves["layer_rates"]["output"]
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == pytest.approx(0.01 * last, abs=1e-5)


def rates_under(schedule):
    """The rate before each of 90 steps, and after the last."""
    return run_trial(Trial("digits/ffnn", f"adam:lr=0.01+{schedule}", seed=0, epochs=2)).curves["layer_rates"]["output"]


def falling(steps):
    return [0.005 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]


def test_each_of_three_cycles_starts_at_the_full_rate_and_is_a_cosine_twice_as_long_as_the_last():
    rates = rates_under("restarts")
    assert [step for step in range(1, 91) if rates[step] > rates[step - 1]] == [13, 39]
    assert [rates[start] for start in (0, 13, 39)] == [0.01] * 3
    assert rates == pytest.approx([*falling(13), *falling(26), *falling(52)], rel=1e-5)


def test_a_warm_up_is_linear_for_a_twentieth_and_a_cosine_to_zero_follows():
    rates = rates_under("warmup-cosine")
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01], rel=1e-5)
    assert rates[4:] == pytest.approx([*falling(86), 0.0], rel=1e-5)


def test_processor_time_shows_that_other_work_held_the_machine(monkeypatch):
    """Waiting stands for a processor that is given to others."""
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=1)
    step = Classification.loss

    def wait(problem, batch):
        time.sleep(0.02)
        return step(problem, batch)

    monkeypatch.setattr(Classification, "loss", wait)
    contended = run_trial(trial).result
    assert contended.seconds > 45 * 0.02
    assert 0 < contended.cpu_seconds < contended.seconds - 0.9 * 45 * 0.02
    assert TrialResult.from_json(contended.to_json()) == contended
    row = json.loads(contended.to_json())
    del row["cpu_seconds"]
    assert TrialResult.from_json(json.dumps(row)).cpu_seconds is None


def test_losses_tell_how_an_optimizer_wants_them(monkeypatch):
    """What each kind of optimizer is given: the loss, a way to measure it again, gradients with a graph."""
    given = {}

    class Asking(torch.optim.SGD):
        needs = "gradient"

        def step(self, closure=None):
            gradient = self.param_groups[0]["params"][0].grad
            given.setdefault(self.needs, []).append((closure and float(closure()), gradient.requires_grad))
            return super().step()

    for needs in ("gradient", "loss", "graph", "closure"):
        monkeypatch.setattr(Asking, "needs", needs)
        monkeypatch.setattr(torch.optim, "Asking", Asking, raising=False)
        entry = OptimizerEntry("asking", "torch.optim:Asking", "", "", {"lr": 0.1})
        monkeypatch.setattr("multirate.lab.trial.OPTIMIZERS", Registry("optimizer", [entry]))
        outcome = run_trial(Trial("digits/ffnn", "asking", seed=0, epochs=1))
        given[needs] = given[needs][: len(outcome.curves["train_loss"])]
    losses = outcome.curves["train_loss"]
    assert given["gradient"] == [(None, False)] * 45
    assert given["graph"] == [(None, True)] * 45
    for needs in ("loss", "closure"):
        assert [loss for loss, _ in given[needs]] == pytest.approx(losses, rel=1e-4)


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="'cuda' is not available here"):
        run_trial(Trial("digits/ffnn", "adam", 0, 1), Circumstances(machine=Machine(device="cuda")))


def test_bf16_changes_how_not_what():
    plain = run_trial(Trial("digits/ffnn", "adam", 0, 3)).result
    other = run_trial(Trial("digits/ffnn", "adam", 0, 3), Circumstances(machine=Machine(bf16=True))).result
    assert other.test_loss == pytest.approx(plain.test_loss, rel=0.05)
    assert other.test_loss != plain.test_loss
    assert other.machine["bf16"]


def test_a_device_that_is_none_to_train_on_is_refused():
    for device in ("meta", "gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"'{device}' is not available here"):
            Machine(device=device).torch_device()


def test_weights_order_and_noise_come_from_streams_of_their_own(monkeypatch):
    drawn = {}
    batches = Quadratic.batches

    def watched(self, order, noise, first=0):
        drawn.update(order=order.initial_seed(), noise=noise.initial_seed(), weights=torch.initial_seed())
        return batches(self, order, noise, first)

    monkeypatch.setattr(Quadratic, "batches", watched)
    run_trial(Trial("quadratic/noisy", "adam", seed=3, epochs=1))
    # Generators take 32 bits of a seed.
    assert drawn["noise"] % 2**32 not in (drawn["order"] % 2**32, drawn["weights"] % 2**32)


def test_lookahead_is_evaluated_at_its_slow_weights():
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = OPTIMIZERS["lookahead-adam"].build([("parameter", parameter)], {"lr": 0.1, "k": 3, "alpha": 0.5})
    for _ in range(2):
        parameter.grad = torch.ones(1)
        optimizer.step()
    fast = parameter.detach().clone()
    for _ in range(2):
        optimizer.eval()
        assert parameter.item() == 1.0
    for _ in range(2):
        optimizer.train()
        assert torch.equal(parameter.detach(), fast)


def test_batch_norm_is_measured_again_where_averages_are_evaluated(monkeypatch):
    """Running statistics belong to the weights that were trained at, not to their average."""

    def problem(device, fold):
        model = functools.partial(
            torch.nn.Sequential, torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)
        )
        return Classification(digits(), model, 32, device)

    seen = []
    evaluate = Classification.evaluate
    monkeypatch.setattr(
        Classification, "evaluate", lambda self: seen.append(self.model[1].running_mean.clone()) or evaluate(self)
    )
    task = dataclasses.replace(TASKS["digits/ffnn"], problem=problem)
    monkeypatch.setattr("multirate.lab.trial.TASKS", {"digits/ffnn": task})
    monkeypatch.setattr("multirate.lab.evaluation.BATCH_NORM_BATCHES", 1000)
    outcome = run_trial(Trial("digits/ffnn", "schedule-free", seed=0, epochs=1))
    assert not outcome.result.diverged
    # Before the first step: the mean of the layer's outputs over the training set, batch by batch.
    torch.manual_seed(0)
    model = problem(torch.device("cpu"), None).model
    order = torch.randperm(1437, generator=torch.Generator().manual_seed(0))
    means = [model[0](digits().train_inputs[part]).mean(0) for part in order.split(32)]
    torch.testing.assert_close(seen[0], torch.stack(means).mean(0).detach(), atol=1e-4, rtol=1e-4)


def test_practising_works_where_second_derivatives_are_needed(monkeypatch):
    """The fused attention kernels have none."""
    text = Text(torch.arange(4000) % 7, torch.arange(500) % 7, tuple("abcdefg"))

    def problem(device, fold):
        model = functools.partial(Transformer, context=8, layers=1, heads=2, width=8)
        return Language(text, model, 4, 8, device, steps_per_epoch=3)

    monkeypatch.setattr(
        "multirate.lab.trial.TASKS", {"digits/ffnn": dataclasses.replace(TASKS["digits/ffnn"], problem=problem)}
    )
    outcome = run_trial(Trial("digits/ffnn", "reverse-mode:meta_iterations=2", seed=0, epochs=1))
    assert outcome.result.steps == 3
    assert outcome.result.preparation_seconds > 0
