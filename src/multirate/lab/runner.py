"""Many trials, one after another or in several processes."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from queue import Empty
from typing import TypeAlias

import torch

from multirate.lab.circumstances import Circumstances, Signals, StoppedError
from multirate.lab.data.sources import DataError
from multirate.lab.machine import keep_freed_memory
from multirate.lab.results import Outcome, Trial, Unfinished
from multirate.lab.trial import run_trial

POLL_SECONDS = 0.1

POOLS = 3
"""How many pools of processes are tried, each new one because a process of the last was killed."""


Letter: TypeAlias = tuple[int, int | str]
"""What a process tells: which of the trials, and how many of its epochs are done, or a note."""


@dataclass(frozen=True)
class Workers:
    """Who runs the trials.

    Attributes:
        jobs: Number of processes at a time, spread over the GPUs if there are several; 1 stays in this one.
        ray: Address of a Ray cluster (`local` starts one here); None does without.
    """

    jobs: int = 1
    ray: str | None = None


@dataclass(frozen=True)
class Failure:
    """A trial that raised: a mistake in the code or a lack of memory, not a result."""

    trial: Trial
    details: str


@dataclass(frozen=True)
class Listener:
    """What the caller wants to hear while trials run; always called in the caller's own process.

    Attributes:
        on_epoch: Called with a trial and the number of its epochs that are done, when it begins and after every epoch;
            a trial may begin more than once.
        on_outcome: Called with every outcome, and with every trial that is left unfinished.
        on_note: Called with a trial and what should be read of it before its end.
        on_device: Called once, before any trial is begun, with the kind of device that all of them get: `cpu` or
            `cuda`. What it raises ends the run.
    """

    on_epoch: Callable[[Trial, int], None]
    on_outcome: Callable[[Outcome | Unfinished], None]
    on_note: Callable[[Trial, str], None] = lambda trial, text: None
    on_device: Callable[[str], None] = lambda kind: None


def run_trials(
    trials: Sequence[Trial], workers: Workers, circumstances: Circumstances, listener: Listener
) -> list[Failure]:
    """Run trials and hand every outcome to the listener as soon as it is there.

    Args:
        trials: What to run, in the order of starting.
        workers: Who runs them.
        circumstances: How each of them is run.
        listener: Hears of epochs and outcomes.

    Returns:
        The trials that failed; the others are not held up by them.
    """
    if workers.ray is not None:
        from multirate.lab.cluster import run_on_cluster

        return run_on_cluster(trials, workers.ray, circumstances, listener)
    listener.on_device(circumstances.machine.torch_device().type)
    if min(workers.jobs, len(trials)) <= 1:
        return _run_here(trials, circumstances, listener)
    return _run_in_processes(trials, workers.jobs, circumstances, listener)


def _run_here(trials: Sequence[Trial], circumstances: Circumstances, listener: Listener) -> list[Failure]:
    keep_freed_memory()
    failures = []
    with _noted_interrupt() as interrupted:
        for trial in trials:
            try:
                hear = functools.partial(listener.on_epoch, trial), functools.partial(listener.on_note, trial)
                outcome = run_trial(trial, circumstances, Signals(*hear, interrupted.is_set))
            except StoppedError:
                raise KeyboardInterrupt from None
            except Exception as error:
                failures.append(describe_failure(trial, error))
            else:
                listener.on_outcome(outcome)
    return failures


@contextmanager
def _noted_interrupt() -> Iterator[threading.Event]:
    """Turn the first interrupt from the keyboard into a note, so that a step can end and be kept; a second is final."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield interrupted
        return
    usual = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, usual)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _run_in_processes(
    trials: Sequence[Trial], jobs: int, circumstances: Circumstances, listener: Listener
) -> list[Failure]:
    failures: list[Failure] = []
    waiting = list(trials)
    # A process that is killed takes its pool with it. Those that are not through go on from their checkpoints.
    for _ in range(POOLS):
        waiting = _run_in_pool(waiting, jobs, circumstances, listener, failures)
        if not waiting:
            return failures
    reason = f"a process was killed, {POOLS} times; perhaps the memory did not suffice: try fewer jobs"
    return [*failures, *(Failure(trial, reason) for trial in waiting)]


def _run_in_pool(
    trials: Sequence[Trial],
    jobs: int,
    circumstances: Circumstances,
    listener: Listener,
    failures: list[Failure],
) -> list[Trial]:
    """Run trials until all are through or a process is killed; add failures, return those that are not through."""
    # A forked process would inherit torch's thread pool in an unknown state.
    context = multiprocessing.get_context("spawn")
    letters: Queue[Letter] = context.Queue()
    stop = context.Event()
    unfinished = []
    with ProcessPoolExecutor(
        min(jobs, len(trials)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(letters, stop, context.Value("i")),
    ) as pool:
        running = {
            pool.submit(_run_in_worker, index, trial, circumstances): trial for index, trial in enumerate(trials)
        }
        try:
            while running:
                done, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                _drain(letters, trials, listener)
                for future in done:
                    trial = running.pop(future)
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        unfinished.append(trial)
                    except Exception as error:
                        failures.append(describe_failure(trial, error))
                    else:
                        listener.on_outcome(outcome)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        _drain(letters, trials, listener)
    # What a process told last may have been on its way.
    _drain(letters, trials, listener)
    return [trial for trial in trials if trial in unfinished]


def describe_failure(trial: Trial, error: Exception) -> Failure:
    """Return what a user should read: of missing data the message that says what to do, otherwise where it happened."""
    details = str(error) if isinstance(error, DataError) else "".join(traceback.format_exception(error))
    return Failure(trial, details)


def _drain(letters: Queue[Letter], trials: Sequence[Trial], listener: Listener) -> None:
    while True:
        try:
            index, told = letters.get_nowait()
        except Empty:
            return
        if isinstance(told, str):
            listener.on_note(trials[index], told)
        else:
            listener.on_epoch(trials[index], told)


# Set once in every worker process: queues and events travel only at a process's start.
_letters: Queue[Letter]
_stop: Event
_number: int


def _start_worker(letters: Queue[Letter], stop: Event, started: Synchronized[int]) -> None:
    global _letters, _stop, _number
    _letters, _stop = letters, stop
    with started.get_lock():
        _number = started.value
        started.value += 1
    keep_freed_memory()
    threading.Thread(target=end_with_parent, daemon=True).start()
    # An interrupt from the keyboard reaches the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_in_worker(index: int, trial: Trial, circumstances: Circumstances) -> Outcome | Unfinished:
    if _stop.is_set():
        raise StoppedError

    def tell(told: int | str) -> None:
        _letters.put((index, told))

    machine = circumstances.machine
    own = replace(machine, device=device_of_process(machine.device, _number, torch.cuda.device_count()))
    return run_trial(trial, replace(circumstances, machine=own), Signals(tell, tell, _stop.is_set))


def device_of_process(device: str, number: int, gpus: int) -> str:
    """Return the device of one of several processes: they take turns over the GPUs where none is named.

    Args:
        device: As for `Machine`.
        number: Which of the processes it is, from 0.
        gpus: How many GPUs there are.
    """
    return f"cuda:{number % gpus}" if device in ("auto", "cuda") and gpus > 1 else device


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, however that came.

    A parent that was killed cannot say so, and two runs must not share a checkpoint. Whatever this process is in the
    middle of, its files are whole.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
