"""Trials in processes."""

import time

import pytest

from multirate.lab.results import Trial
from multirate.lab.runner import Listener, Workers, run_trials
from multirate.lab.trial import Circumstances


def test_an_interrupt_stops_the_processes_in_the_middle_of_their_trials():
    """A forgotten worker would train on for minutes and keep the command from ending."""

    def interrupt():
        raise KeyboardInterrupt

    trials = [Trial("digits/ffnn", "adam", seed, epochs=100_000) for seed in range(4)]
    listener = Listener(on_epoch=interrupt, on_outcome=lambda outcome: pytest.fail("finished"))
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_trials(trials, Workers(jobs=2), Circumstances(), listener)
    assert time.monotonic() - started < 60


def test_a_failure_in_a_process_is_told_with_its_details():
    heard = []
    trials = [Trial("digits/ffnn", name, 0, epochs=1) for name in ("no-such-optimizer", "adam")]
    failures = run_trials(
        trials, Workers(jobs=2), Circumstances(), Listener(lambda: None, lambda outcome: heard.append(outcome))
    )
    assert [failure.trial for failure in failures] == trials[:1]
    assert "unknown optimizer 'no-such-optimizer'" in failures[0].details
    assert [outcome.result.trial for outcome in heard] == trials[1:]
