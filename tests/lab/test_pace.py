"""The time left of trials under way."""

import io

import pytest
from rich.console import Console

from multirate.lab import progress
from multirate.lab.pace import Pace
from multirate.lab.progress import TrialProgress
from multirate.lab.results import Trial


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def train(pace, clock, trial, seconds, *, epochs=None, begun=0):
    """Let a trial's epochs pass."""
    pace.note_epoch(trial, begun)
    for epoch in range(begun + 1, (epochs or trial.epochs) + 1):
        clock.seconds += seconds
        pace.note_epoch(trial, epoch)


def test_before_the_first_result_every_epoch_weighs_the_same(clock):
    trials = [Trial("digits/ffnn", "adam", seed, epochs=10) for seed in range(3)]
    pace = Pace(trials, clock=clock)
    assert pace.seconds_left is None
    train(pace, clock, trials[0], 2.0, epochs=5)
    assert pace.seconds_left == pytest.approx(50.0)
    assert pace.share == pytest.approx(5 / 30)


def test_epochs_weigh_what_they_took(clock, make_result):
    """Half the trials are through, but not half the work."""
    quick, slow = (Trial("digits/ffnn", name, 0, epochs=10) for name in ("adam", "sgdn"))
    others = [Trial("digits/ffnn", name, 1, epochs=10) for name in ("adam", "sgdn")]
    pace = Pace([quick, slow, *others], clock=clock)
    train(pace, clock, quick, 1.0)
    pace.note_through(quick, make_result("adam", 0, 0.5, epochs=10, seconds=10.0))
    # Nothing is known of the other optimizer yet but that its task is the same.
    assert pace.seconds_left == pytest.approx(30.0)
    train(pace, clock, slow, 9.0)
    pace.note_through(slow, make_result("sgdn", 0, 0.5, epochs=10, seconds=90.0))
    assert pace.seconds_left == pytest.approx(100.0)
    train(pace, clock, others[0], 1.0)
    pace.note_through(others[0], None)
    assert pace.seconds_left == pytest.approx(90.0)
    assert pace.through == 3
    # Two at a time, or a machine that is slower now: what counts is how long the work so far took.
    clock.seconds *= 2
    assert pace.seconds_left == pytest.approx(180.0)


def test_trials_that_may_stop_early_are_expected_to_do_as_their_like_did(clock, make_result):
    trials = [Trial("digits/ffnn", "adam", fold, epochs=100, fold=fold, patience=3) for fold in range(5)]
    pace = Pace(trials, clock=clock)
    train(pace, clock, trials[0], 1.0, epochs=12)
    assert pace.seconds_left == pytest.approx(488.0)
    result = make_result("adam", 0, 0.5, epochs=100, fold=0, patience=3, best_epoch=9, seconds=12.0)
    pace.note_through(trials[0], result)
    assert pace.seconds_left == pytest.approx(4 * 12.0)
    # One that goes on for longer than its like has nothing left that anybody knows of.
    train(pace, clock, trials[1], 1.0, epochs=20)
    assert pace.seconds_left == pytest.approx(3 * 12.0)
    pace.note_through(trials[1], make_result("adam", 1, None, epochs=100, fold=1, patience=3, seconds=1.0))
    assert pace.seconds_left == pytest.approx(3 * 12.0)


def test_earlier_results_tell_too_and_epochs_of_a_checkpoint_took_no_time(clock, make_result):
    trials = [Trial("digits/ffnn", name, 0, epochs=10) for name in ("adam", "sgdn")]
    known = [make_result(name, 1, 0.5, epochs=10, seconds=took) for name, took in (("adam", 10.0), ("sgdn", 30.0))]
    pace = Pace(trials, known, clock=clock)
    train(pace, clock, trials[0], 1.0, epochs=10, begun=8)
    pace.note_through(trials[0], None)
    assert pace.seconds_left == pytest.approx(30.0)
    assert pace.share == pytest.approx(10 / 40)


def test_trials_that_are_left_for_now_end_where_they_are_left(clock):
    trials = [Trial("digits/ffnn", "adam", seed, epochs=10) for seed in range(2)]
    pace = Pace(trials, until=4, clock=clock)
    train(pace, clock, trials[0], 1.0, epochs=4)
    pace.note_through(trials[0], None)
    assert pace.seconds_left == pytest.approx(4.0)
    assert pace.share == pytest.approx(0.5)


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_say_what_is_left_and_a_log_is_not_silent_for_long(clock, terminal, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    trials = [Trial("digits/ffnn", "adam", seed, epochs=2) for seed in range(2)]
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    shown = TrialProgress(console, 2, Pace(trials, clock=clock))
    with shown.shown():
        shown.tell_epoch(trials[0], 0)
        clock.seconds = 1800.0
        shown.tell_epoch(trials[0], 1)
        shown.tell_through(trials[0], None, "one [result]")
        shown.tell_through(trials[1], None, "another")
    output = console.file.getvalue()
    for part in ("1/2, about 1:00:00 left:", "one [result]", "2/2:", "another"):
        assert part in output
    silence = "0/2, about 1:30:00 left: trials are through; digits/ffnn adam seed 0: epoch 1 of 2"
    assert (silence in output) != terminal
