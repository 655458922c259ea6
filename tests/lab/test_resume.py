"""A trial that is interrupted and resumed gives what it would have given."""

from __future__ import annotations

import itertools

import pytest

from multirate.lab.checkpoint import read_checkpoint, write_checkpoint
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.results import Trial
from multirate.lab.trial import Circumstances, Signals, StoppedError, checkpoint_path, run_trial

TIMED = {"epoch_seconds"}


def without_times(curves):
    return {name: curve for name, curve in curves.items() if name not in TIMED}


def run_with_stops(trial, folder, steps):
    """Stop a trial after so many steps of every attempt, until it is through; count the attempts."""
    for attempt in itertools.count(1):
        counter = itertools.count(1)
        signals = Signals(should_stop=lambda counter=counter: next(counter) >= steps)
        try:
            return run_trial(trial, Circumstances(checkpoints=folder), signals), attempt
        except StoppedError:
            assert attempt < 20


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_goes_on_as_if_nothing_had_happened(name, tmp_path):
    trial = Trial("digits/ffnn", name, seed=1, epochs=2)
    whole = run_trial(trial)
    pieces, attempts = run_with_stops(trial, tmp_path, steps=25)
    assert attempts == 4
    assert without_times(pieces.curves) == without_times(whole.curves)
    assert pieces.result.test_loss == whole.result.test_loss
    assert pieces.result.best_epoch == whole.result.best_epoch


@pytest.mark.parametrize("task", ["quadratic/noisy", "rosenbrock/two", "synthetic/logistic", "digits/ffnn"])
@pytest.mark.parametrize("schedule", ["", "+cosine", "+restarts", "+step", "+linear"])
def test_schedules_and_noise_go_on_too(task, schedule, tmp_path):
    trial = Trial(task, f"adam-cam-hd:lr=0.01{schedule}", seed=0, epochs=2)
    whole = run_trial(trial)
    pieces, attempts = run_with_stops(trial, tmp_path, steps=37)
    assert attempts > 1
    assert without_times(pieces.curves) == without_times(whole.curves)


def test_a_finished_trial_whose_result_was_not_kept_is_not_trained_again(tmp_path):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=1)
    first = run_trial(trial, Circumstances(checkpoints=tmp_path))
    again = run_trial(
        trial, Circumstances(checkpoints=tmp_path), Signals(should_stop=lambda: pytest.fail("took a step"))
    )
    assert again.result.test_loss == first.result.test_loss
    assert again.curves == first.curves


@pytest.mark.parametrize("changed", [{"settings": {"lr": 0.5}}, {"revision": "0123456789ab"}, {"versions": {}}])
def test_a_checkpoint_of_other_settings_or_code_is_not_gone_on_from(tmp_path, changed):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=2)
    with pytest.raises(StoppedError):
        run_trial(trial, Circumstances(checkpoints=tmp_path), Signals(should_stop=lambda: True))
    path = checkpoint_path(tmp_path, trial)
    content = read_checkpoint(path)
    content["identity"] |= changed
    content["state"].steps = 1_000_000
    write_checkpoint(path, content)
    assert run_trial(trial, Circumstances(checkpoints=tmp_path)).result.steps == 2 * 45


@pytest.mark.parametrize("damage", ["empty", "cut off", "one bit"])
def test_a_damaged_checkpoint_starts_the_trial_again(tmp_path, damage):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=1)
    with pytest.raises(StoppedError):
        run_trial(trial, Circumstances(checkpoints=tmp_path), Signals(should_stop=lambda: True))
    path = checkpoint_path(tmp_path, trial)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes({"empty": b"", "cut off": bytes(data[: len(data) // 3]), "one bit": bytes(data)}[damage])
    assert read_checkpoint(path) is None
    outcome = run_trial(trial, Circumstances(checkpoints=tmp_path))
    assert without_times(outcome.curves) == without_times(run_trial(trial).curves)


def test_checkpoints_are_written_as_often_as_asked(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("multirate.lab.trial.write_checkpoint", lambda path, content: written.append(path))
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=1)
    run_trial(trial, Circumstances(checkpoints=tmp_path, interval=0.0))
    assert len(written) == 45 + 1
    written.clear()
    run_trial(trial, Circumstances(checkpoints=tmp_path, interval=3600.0))
    assert len(written) == 1
