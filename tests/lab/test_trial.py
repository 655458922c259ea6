"""One trial."""

import pytest
import torch

from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.results import Trial
from multirate.lab.tasks import TASKS
from multirate.lab.trial import evaluate, run_trial, trial_settings


def test_a_trial_gives_the_same_curves_again_and_leaves_the_random_state_alone():
    trial = Trial("digits/ffnn", "adam", seed=3, epochs=1)
    torch.manual_seed(11)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = run_trial(trial, command="")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.rand(5)
    second = run_trial(trial, command="")
    assert second.curves == first.curves
    assert run_trial(Trial("digits/ffnn", "adam", seed=4, epochs=1), command="").curves != first.curves


def test_all_optimizers_start_from_the_same_model_and_see_the_same_examples():
    """The first loss depends on nothing but the initial model and the first batch."""
    outcomes = [run_trial(Trial("digits/ffnn", name, 0, 1), command="") for name in ("adam", "sgdn", "adamw")]
    assert len({outcome.curves["train_loss"][0] for outcome in outcomes}) == 1
    assert len({outcome.curves["test_loss"][0] for outcome in outcomes}) == 1


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_learns_the_digits(name):
    outcome = run_trial(Trial("digits/ffnn", name, seed=0, epochs=3), command="")
    assert not outcome.result.diverged
    assert outcome.result.test_accuracy > 0.8
    assert outcome.curves["layer_rates"].keys() == {"hidden1", "hidden2", "output"}


def test_iterates_that_are_averaged_are_the_ones_evaluated(monkeypatch):
    """Schedule-Free trains at one point and is meant to be used at another."""
    modes = []
    build = type(OPTIMIZERS["schedule-free"]).build

    def watched_build(entry, parameters, settings):
        optimizer = build(entry, parameters, settings)
        monkeypatch.setattr("multirate.lab.trial.evaluate", lambda *data: look(optimizer) or evaluate(*data))
        return optimizer

    def look(optimizer):
        modes.append(optimizer.param_groups[0]["train_mode"])

    monkeypatch.setattr(type(OPTIMIZERS["schedule-free"]), "build", watched_build)
    run_trial(Trial("digits/ffnn", "schedule-free", seed=0, epochs=2), command="")
    assert modes == [False, False, False]


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


def test_evaluation_is_the_mean_over_all_examples_however_they_are_batched(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    inputs, targets = torch.randn(100, 5), torch.randint(3, (100,))
    scores = model(inputs)
    expected = torch.nn.functional.cross_entropy(scores, targets).item()
    right = (scores.argmax(1) == targets).double().mean().item()
    monkeypatch.setattr("multirate.lab.trial.EVALUATION_BATCH", 7)
    loss, accuracy = evaluate(model, inputs, targets)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert accuracy == pytest.approx(right)
