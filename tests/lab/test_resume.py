"""A trial that is interrupted and resumed gives what it would have given."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest
import torch

from multirate.lab import environment
from multirate.lab.checkpoint import _placed, read_checkpoint, write_checkpoint
from multirate.lab.circumstances import Circumstances, Signals, StoppedError
from multirate.lab.environment import versions
from multirate.lab.opponents.reverse_mode import ReverseModeSGD
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.results import Trial, Unfinished
from multirate.lab.resuming import checkpoint_path, remove_checkpoints, set_aside_path
from multirate.lab.trial import run_trial

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
    # Practice is interrupted too.
    assert attempts == (5 if name == "reverse-mode" else 4)
    assert without_times(pieces.curves) == without_times(whole.curves)
    assert pieces.result.test_loss == whole.result.test_loss
    assert pieces.result.best_epoch == whole.result.best_epoch


def test_practice_goes_on_between_its_runs(tmp_path, monkeypatch):
    """Practice takes many times as long as training: it must not begin again."""
    practised = []
    practise = ReverseModeSGD._practise
    monkeypatch.setattr(
        ReverseModeSGD, "_practise", lambda self, make, seed, *rest: (
            practise(self, lambda seed: practised.append(seed) or make(seed), seed, *rest)
        )
    )  # fmt: skip
    trial = Trial("digits/ffnn", "reverse-mode:meta_iterations=7", seed=1, epochs=1)
    whole = run_trial(trial)
    assert practised == list(range(7))
    practised.clear()
    random = []
    for attempt in range(3):
        counter = itertools.count(1)
        signals = Signals(should_stop=lambda counter=counter: next(counter) >= 3)
        with pytest.raises(StoppedError):
            run_trial(trial, Circumstances(checkpoints=tmp_path), signals)
        kept = read_checkpoint(checkpoint_path(tmp_path, trial))
        assert kept["state"].practising
        assert kept["optimizer"].practice[0] == 2 * (attempt + 1)
        assert kept["state"].preparation_seconds > 0
        random.append(kept["random"])
    # What is drawn in training does not depend on where practice was interrupted.
    assert torch.equal(random[0], random[1])
    assert torch.equal(random[0], random[2])
    seconds = kept["state"].preparation_seconds
    pieces = run_trial(trial, Circumstances(checkpoints=tmp_path))
    # Asked for once more where it was told to stop, and not practised there before.
    assert practised == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert without_times(pieces.curves) == without_times(whole.curves)
    assert pieces.result.preparation_seconds > seconds


def test_practice_writes_checkpoints_as_often_as_asked(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(
        "multirate.lab.trial.write_checkpoint",
        lambda path, content: runs.append(content["optimizer"].practice and content["optimizer"].practice[0]),
    )
    trial = Trial("digits/ffnn", "reverse-mode:meta_iterations=3", seed=0, epochs=1)
    run_trial(trial, Circumstances(checkpoints=tmp_path, interval=0.0))
    assert runs == [0, 1, 2, *[None] * 46]


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


def leave_checkpoint(trial, folder, **changed):
    """Train one epoch of a trial; change what its checkpoint says that it is of."""
    stop = itertools.chain([False] * 49, itertools.repeat(True))
    with pytest.raises(StoppedError):
        run_trial(trial, Circumstances(checkpoints=folder), Signals(should_stop=lambda: next(stop)))
    path = checkpoint_path(folder, trial)
    content = read_checkpoint(path)
    content["identity"] |= changed
    write_checkpoint(path, content)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"settings": {"lr": 0.5}}, "other settings (lr 0.5 instead of 0.001, fused None instead of True)"),
        ({"code": "0123456789abcdef", "revision": "0123456789ab"}, "other code (revision 0123456789ab, now abc)"),
        ({"versions": {**versions(), "numba": "0.1"}}, "other versions (numba 0.1 instead of "),
        ({"patience": 3}, "patience 3 instead of None"),
    ],
)
def test_a_checkpoint_of_other_settings_or_code_is_not_gone_on_from_and_that_is_said(tmp_path, changed, told):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=2)
    leave_checkpoint(trial, tmp_path, **changed)
    notes = []
    stop = Signals(on_note=notes.append, should_stop=lambda: True)
    with pytest.raises(StoppedError):
        run_trial(trial, Circumstances(checkpoints=tmp_path, revision="abc"), stop)
    assert read_checkpoint(checkpoint_path(tmp_path, trial))["state"].steps == 1
    [note] = notes
    assert note.startswith("starts again and loses 1 of 2 epochs and 5 steps: its checkpoint has " + told)
    assert read_checkpoint(set_aside_path(tmp_path, trial))["state"].steps == 50
    assert ("--trust-checkpoints" in note) == ("code" in changed or "versions" in changed)
    remove_checkpoints(tmp_path, trial)
    assert not list(tmp_path.iterdir())


def test_another_revision_of_the_same_code_changes_nothing(tmp_path):
    """A commit of documents or results between two starts must not cost a trial."""
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=2)
    leave_checkpoint(trial, tmp_path, revision="0123456789ab")
    signals = Signals(on_note=lambda note: pytest.fail(note))
    pieces = run_trial(trial, Circumstances(checkpoints=tmp_path, revision="abc"), signals)
    assert pieces.result.revision == "abc"
    assert without_times(pieces.curves) == without_times(run_trial(trial).curves)


def test_a_checkpoint_of_other_code_is_gone_on_from_when_told_so_and_the_row_says_it(tmp_path):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=2)
    older = {**versions(), "torch": "2.0"}
    leave_checkpoint(trial, tmp_path, code="0123456789abcdef", versions=older, revision="old")
    notes, counter = [], itertools.count(1)
    signals = Signals(on_note=notes.append, should_stop=lambda: next(counter) >= 10)
    circumstances = Circumstances(checkpoints=tmp_path, revision="new", trust_checkpoints=True)
    with pytest.raises(StoppedError):
        run_trial(trial, circumstances, signals)
    # From here on the checkpoint is one of this code.
    outcome = run_trial(trial, circumstances, Signals(on_note=lambda note: pytest.fail(note)))
    [note] = notes
    assert note.startswith(
        "goes on after 1 of 2 epochs and 5 steps, though its checkpoint has other versions (torch 2.0 "
    )
    assert outcome.result.steps == 90
    assert outcome.result.revision == "old then new"
    assert outcome.result.versions == {**versions(), "torch": f"2.0 then {versions()['torch']}"}


def test_no_trust_makes_other_settings_the_same(tmp_path):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=2)
    leave_checkpoint(trial, tmp_path, settings={"lr": 0.5}, code="0123456789abcdef")
    notes = []
    circumstances = Circumstances(checkpoints=tmp_path, trust_checkpoints=True)
    run_trial(trial, circumstances, Signals(on_note=notes.append))
    assert notes[0].startswith("starts again")


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_command_says_which_trial_starts_again(invoke, tmp_path, jobs):
    trials = [Trial("digits/ffnn", "adam", seed=seed, epochs=2) for seed in range(2)]
    for trial in trials:
        leave_checkpoint(trial, tmp_path / "checkpoints", code="0123456789abcdef")
    words = ("compare", "--optimizers", "adam", "--seeds", 2, "--epochs", 2, "--jobs", jobs, "--out", tmp_path)
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    for trial in trials:
        assert f"{trial} starts again and loses 1 of 2 epochs and 5 steps: its checkpoint has other code" in done.output
    assert not list((tmp_path / "checkpoints").iterdir())


def test_the_command_goes_on_when_told_to(invoke, tmp_path):
    leave_checkpoint(Trial("digits/ffnn", "adam", seed=0, epochs=2), tmp_path / "checkpoints", code="other")
    words = ("compare", "--optimizers", "adam", "--seeds", 1, "--epochs", 2, "--trust-checkpoints", "--out", tmp_path)
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert "goes on after 1 of 2 epochs" in done.output
    assert "--trust-checkpoints" in json.loads((tmp_path / "results.jsonl").read_text())["command"]


def test_the_code_is_what_trials_run_through_committed_or_not(tmp_path, monkeypatch):
    package = tmp_path / "multirate"
    (package / "lab" / "reporting").mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(package / "lab" / "environment.py"))
    digests = []
    for place in ("optimizer.py", "optimizer.py", "lab/trial.py", "lab/reporting/page.py", "notes.txt"):
        path = package / place
        path.write_text(path.read_text() + "1" if path.exists() else "0")
        digests.append(environment.code.__wrapped__())
    assert len(set(digests)) == 3
    assert digests[2] == digests[3] == digests[4]


def test_no_trial_runs_through_the_folders_that_are_left_out():
    program = (
        "import sys, multirate.lab.runner, multirate.lab.cluster; "
        "print(*[name for name in sys.modules if name.startswith('multirate.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    loaded = done.stdout.split()
    assert "multirate.lab.trial" in loaded
    assert not [name for name in loaded for folder in environment.APART if f"multirate.lab.{folder}" in name]


def test_a_trial_that_is_past_the_epoch_where_it_would_be_left_is_left_as_it_is(tmp_path):
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=3)
    leave_checkpoint(trial, tmp_path)
    left = run_trial(trial, Circumstances(checkpoints=tmp_path, until=1))
    assert isinstance(left, Unfinished)
    assert left.epoch == 1
    kept = read_checkpoint(checkpoint_path(tmp_path, trial))["state"]
    assert (kept.epoch, kept.batch) == (1, 5)
    left = run_trial(trial, Circumstances(checkpoints=tmp_path, until=2))
    assert (left.epoch, left.curves["epoch"]) == (2, [0, 1, 2])
    whole = run_trial(trial)
    assert without_times(run_trial(trial, Circumstances(checkpoints=tmp_path)).curves) == without_times(whole.curves)
    assert without_times(left.curves)["test_loss"] == whole.curves["test_loss"][:3]


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
    notes = []
    outcome = run_trial(trial, Circumstances(checkpoints=tmp_path), Signals(on_note=notes.append))
    assert notes == ["starts again: its checkpoint is damaged, or of a version that is no longer there"]
    assert without_times(outcome.curves) == without_times(run_trial(trial).curves)


@pytest.mark.parametrize(
    ("place", "device", "moved"),
    [
        ("cuda:0", "cuda:1", 1),
        ("cuda:1", "cuda:0", 0),
        ("cpu", "cuda:1", None),
        ("cuda:0", "cpu", None),
        ("cpu", "cpu", None),
    ],
)
def test_tensors_of_a_gpu_go_to_the_one_that_the_trial_has_now(place, device, moved):
    """Which of several GPUs a process has may be another after every start."""

    class Stored:
        gpu = None

        def cuda(self, index):
            self.gpu = index
            return self

    stored = Stored()
    assert _placed(stored, place, torch.device(device)) is stored
    assert stored.gpu == moved


def test_checkpoints_are_written_as_often_as_asked(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("multirate.lab.trial.write_checkpoint", lambda path, content: written.append(path))
    trial = Trial("digits/ffnn", "adam", seed=0, epochs=1)
    run_trial(trial, Circumstances(checkpoints=tmp_path, interval=0.0))
    assert len(written) == 45 + 1
    written.clear()
    run_trial(trial, Circumstances(checkpoints=tmp_path, interval=3600.0))
    assert len(written) == 1
