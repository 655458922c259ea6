"""Trials in processes."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from multirate.lab import runner
from multirate.lab.circumstances import Circumstances
from multirate.lab.machine import Machine
from multirate.lab.results import Trial
from multirate.lab.runner import Listener, Workers, device_of_process, run_trials
from multirate.lab.trial import run_trial


def test_an_interrupt_stops_the_processes_in_the_middle_of_their_trials():
    """A forgotten worker would train on for minutes and keep the command from ending."""

    def interrupt(trial, epoch):
        if epoch > 0:
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
        trials, Workers(jobs=2), Circumstances(), Listener(lambda *_: None, lambda outcome: heard.append(outcome))
    )
    assert [failure.trial for failure in failures] == trials[:1]
    assert "unknown optimizer 'no-such-optimizer'" in failures[0].details
    assert [outcome.result.trial for outcome in heard] == trials[1:]


def test_a_killed_process_costs_nobody_a_result(tmp_path):
    """The pool dies with it; what was not through goes on from its checkpoint in a new one."""
    trials = [Trial("digits/ffnn", "adam", seed, epochs=30) for seed in range(3)]
    heard, killed = [], []

    def kill_one(trial, epoch):
        if not killed and list(tmp_path.glob("*.pt")):
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    listener = Listener(kill_one, lambda outcome: heard.append(outcome))
    failures = run_trials(trials, Workers(jobs=2), Circumstances(checkpoints=tmp_path, interval=0.01), listener)
    assert killed
    assert not failures
    assert sorted(outcome.result.seed for outcome in heard) == [0, 1, 2]
    for outcome in heard:
        alone = run_trial(outcome.result.trial)
        assert outcome.result.test_loss == alone.result.test_loss


def test_processes_that_are_killed_over_and_over_are_a_failure(monkeypatch):
    monkeypatch.setattr("multirate.lab.runner.POOLS", 2)
    trials = [Trial("digits/ffnn", "adam", seed, epochs=100_000) for seed in range(2)]

    def kill_one(trial, epoch):
        for child in multiprocessing.active_children():
            # What is told may come from a process that is gone already.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)

    failures = run_trials(trials, Workers(jobs=2), Circumstances(), Listener(kill_one, lambda outcome: None))
    assert [failure.trial for failure in failures] == trials
    assert all("was killed, 2 times" in failure.details for failure in failures)


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("auto", 0, ["auto"] * 4),
        ("auto", 1, ["auto"] * 4),
        ("auto", 3, ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ("cuda:1", 2, ["cuda:1"] * 4),
        ("cpu", 2, ["cpu"] * 4),
    ],
)
def test_processes_take_turns_over_the_gpus_where_none_is_named(device, gpus, expected):
    assert [device_of_process(device, number, gpus) for number in range(4)] == expected


def test_a_process_runs_its_trials_on_its_own_gpu(monkeypatch):
    sent = []
    monkeypatch.setattr(runner, "_number", 1, raising=False)
    monkeypatch.setattr(runner, "_stop", threading.Event(), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(runner, "run_trial", lambda trial, circumstances, signals: sent.append(circumstances))
    circumstances = Circumstances(machine=Machine(bf16=True), until=3)
    runner._run_in_worker(0, Trial("digits/ffnn", "adam", 0, epochs=1), circumstances)
    assert sent == [dataclasses.replace(circumstances, machine=Machine("cuda:1", bf16=True))]


def test_every_process_of_a_pool_has_a_number_of_its_own():
    context = multiprocessing.get_context("spawn")
    arguments = (context.Queue(), context.Event(), context.Value("i"))
    barrier = context.Manager().Barrier(2)
    with ProcessPoolExecutor(2, mp_context=context, initializer=runner._start_worker, initargs=arguments) as pool:
        numbers = [future.result() for future in [pool.submit(number_of_process, barrier) for _ in range(2)]]
    assert sorted(numbers) == [0, 1]


def number_of_process(barrier):
    barrier.wait(60)
    return runner._number


def test_an_interrupt_without_processes_is_kept_and_gone_on_from(tmp_path):
    trial = Trial("digits/ffnn", "adam", 0, epochs=4)
    circumstances = Circumstances(checkpoints=tmp_path, interval=3600.0)

    def interrupt(trial, epoch):
        if epoch > 0:
            os.kill(os.getpid(), signal.SIGINT)

    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_trials([trial], Workers(), circumstances, Listener(interrupt, lambda outcome: pytest.fail("finished")))
    assert signal.getsignal(signal.SIGINT) is usual
    assert list(tmp_path.glob("*.pt"))
    heard, epochs = [], []
    listener = Listener(lambda trial, epoch: epochs.append(epoch), heard.append)
    assert run_trials([trial], Workers(), circumstances, listener) == []
    # Interrupted in its second epoch.
    assert epochs == [1, 2, 3, 4]
    assert heard[0].result.test_loss == run_trial(trial).result.test_loss
