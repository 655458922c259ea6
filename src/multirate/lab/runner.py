"""Many trials, one after another or in several processes."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from queue import Empty

from multirate.lab.results import Outcome, Trial
from multirate.lab.trial import StoppedError, run_trial

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Failure:
    """A trial that raised: a mistake in the code or a lack of memory, not a result."""

    trial: Trial
    details: str


@dataclass(frozen=True)
class Listener:
    """What the caller wants to hear while trials run; always called in the caller's own process."""

    on_epoch: Callable[[], None]
    on_outcome: Callable[[Outcome], None]


def run_trials(trials: Sequence[Trial], *, jobs: int, command: str, listener: Listener) -> list[Failure]:
    """Run trials and hand every outcome to the listener as soon as it is there.

    Args:
        trials: What to run, in the order of starting.
        jobs: Number of processes; 1 stays in this one.
        command: The command that asked for it, for the record.
        listener: Hears of epochs and outcomes.

    Returns:
        The trials that failed; the others are not held up by them.
    """
    if min(jobs, len(trials)) <= 1:
        return _run_here(trials, command, listener)
    return _run_in_processes(trials, jobs, command, listener)


def _run_here(trials: Sequence[Trial], command: str, listener: Listener) -> list[Failure]:
    failures = []
    for trial in trials:
        try:
            outcome = run_trial(trial, command=command, on_epoch=listener.on_epoch)
        except Exception:
            failures.append(Failure(trial, traceback.format_exc()))
        else:
            listener.on_outcome(outcome)
    return failures


def _run_in_processes(trials: Sequence[Trial], jobs: int, command: str, listener: Listener) -> list[Failure]:
    # A forked process would inherit torch's thread pool in an unknown state.
    context = multiprocessing.get_context("spawn")
    epochs: Queue[None] = context.Queue()
    stop = context.Event()
    failures = []
    with ProcessPoolExecutor(
        min(jobs, len(trials)), mp_context=context, initializer=_start_worker, initargs=(epochs, stop)
    ) as pool:
        running = {pool.submit(_run_in_worker, trial, command): trial for trial in trials}
        try:
            while running:
                done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                _drain(epochs, listener)
                for future in done:
                    failure = _collect(future, running.pop(future), listener)
                    failures += [failure] if failure else []
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        _drain(epochs, listener)
    return failures


def _collect(future: Future[Outcome], trial: Trial, listener: Listener) -> Failure | None:
    try:
        outcome = future.result()
    except BrokenProcessPool:
        return Failure(trial, "its process was killed; perhaps the memory did not suffice: try fewer jobs")
    except Exception as error:
        return Failure(trial, "".join(traceback.format_exception(error)))
    listener.on_outcome(outcome)
    return None


def _drain(epochs: Queue[None], listener: Listener) -> None:
    while True:
        try:
            epochs.get_nowait()
        except Empty:
            return
        listener.on_epoch()


# Set once in every worker process: queues and events travel only at a process's start.
_epochs: Queue[None]
_stop: Event


def _start_worker(epochs: Queue[None], stop: Event) -> None:
    global _epochs, _stop
    _epochs, _stop = epochs, stop
    # An interrupt from the keyboard reaches the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_in_worker(trial: Trial, command: str) -> Outcome:
    def on_epoch() -> None:
        _epochs.put(None)
        if _stop.is_set():
            raise StoppedError

    return run_trial(trial, command=command, on_epoch=on_epoch)
