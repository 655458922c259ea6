"""Trials on a Ray cluster, or on one that Ray starts here."""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from multirate.cache_folder import CACHE_VARIABLE
from multirate.lab.circumstances import Circumstances, Signals
from multirate.lab.data.sources import FOLDER_VARIABLE
from multirate.lab.machine import Machine, keep_freed_memory
from multirate.lab.results import Outcome, Trial, Unfinished
from multirate.lab.runner import Failure, Listener
from multirate.lab.trial import run_trial

LOCAL = "local"
LOCAL_CPUS = os.cpu_count()
POLL_SECONDS = 0.1
REACH_SECONDS = 5.0
"""How long a cluster may take to answer."""
GRACE_SECONDS = 5.0
"""How long interrupted trials may take to write their checkpoints, and the post to give its last letters."""
RESTARTS = 3
"""How often a trial is begun again whose process was killed or whose node was lost."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of a cluster started here: only outcomes pass through it."""

logger = logging.getLogger(__name__)


class ClusterError(Exception):
    """The cluster cannot be used; the message says why and what to do."""


def run_on_cluster(
    trials: Sequence[Trial], address: str, circumstances: Circumstances, listener: Listener
) -> list[Failure]:
    """Run trials as tasks of Ray and hand every outcome to the listener as soon as it is there.

    A trial takes one CPU, and one GPU where the machine is to be CUDA: asked for by name, or `auto` where the cluster
    has any GPU. This process's own machine does not matter: it may be a head node without a GPU. When a trial's process
    is killed, or its node is lost, Ray begins it again, and it goes on from its checkpoint. So the folder
    `circumstances.checkpoints` must lie on a file system that all nodes share, under the same path; on a node without
    it the folder is made, and a trial that moves there starts again from its first step, with the same result.
    MULTIRATE_DATA and MULTIRATE_CACHE are passed on: their folders must be there on every node too, as must this
    package, in the caller's versions of Python and Ray.

    Args:
        trials: What to run, in the order of starting.
        address: `local` starts Ray here, with all CPUs, and stops it afterwards; `auto`, `HOST:PORT` or
            `ray://HOST:PORT` connects to a cluster, which goes on afterwards.
        circumstances: How each trial is run.
        listener: Hears of epochs and outcomes, in this process.

    Returns:
        The trials that failed; the others are not held up by them.

    Raises:
        ClusterError: If Ray is missing, the address is of no cluster, or GPUs are wanted that the cluster has not.
    """
    if not trials:
        return []
    with _connection(address) as ray:
        gpus = ray.cluster_resources().get("GPU", 0)
        wants_gpu = _wants_gpu(circumstances.machine, gpus)
        if wants_gpu and gpus < 1:
            raise ClusterError(f"the Ray cluster {address!r} has no GPU: add a node with one, or choose the device cpu")
        sent = _for_workers(circumstances, wants_gpu)
        listener.on_device(sent.machine.device)
        post = ray.remote(num_cpus=0, max_restarts=-1)(_post_class()).remote()
        work = ray.remote(num_cpus=1, num_gpus=int(wants_gpu), max_retries=RESTARTS)(_work)
        running = {work.remote(index, trial, sent, post): index for index, trial in enumerate(trials)}
        try:
            return _follow(ray, running, trials, _Post(ray, post, trials, listener), listener)
        except BaseException:
            _cancel(ray, list(running))
            raise


# -- the cluster


@contextmanager
def _connection(address: str) -> Iterator[Any]:
    # Ray reads these when it is imported or started: no statistics leave the machine, and tasks without a GPU keep
    # what they see, which Ray announces with a warning as its future behaviour.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError("running on a cluster needs the package ray: pip install 'multirate[ray]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    # A folder of its own keeps others from finding a cluster started here as `auto`, and its logs from piling up.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        options: dict[str, Any] = {}
        if address == LOCAL:
            options = {
                "num_cpus": LOCAL_CPUS, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": folder,
            }  # fmt: skip
        else:
            _check_reachable(address)
        try:
            ray.init(
                address, log_to_driver=False, configure_logging=False, runtime_env={"env_vars": _variables()}, **options
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            doing = "started here" if address == LOCAL else f"reached at {address!r}: check the address"
            raise ClusterError(f"Ray cannot be {doing} ({error})") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"Ray address {address!r} must be local, auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address!r} ({error}): check the address and that `ray start --head` runs there"
        ) from error


def _variables() -> dict[str, str]:
    """Return the environment of the workers, whose current folder is another."""
    folders = {name: os.environ.get(name) for name in (FOLDER_VARIABLE, CACHE_VARIABLE)}
    return {
        "OMP_NUM_THREADS": "1",
        **{name: str(Path(folder).resolve()) for name, folder in folders.items() if folder},
    }


def _wants_gpu(machine: Machine, gpus: float) -> bool:
    """Return whether trials get a GPU each, on a cluster that has so many."""
    return machine.device.startswith("cuda") or (machine.device == "auto" and gpus >= 1)


def _for_workers(circumstances: Circumstances, wants_gpu: bool) -> Circumstances:
    """Return the circumstances as they read on any node.

    Ray shows a task the one GPU that is its own, and `auto` must not mean something else on every node.
    """
    folder = circumstances.checkpoints
    return replace(
        circumstances,
        machine=replace(circumstances.machine, device="cuda" if wants_gpu else "cpu"),
        checkpoints=None if folder is None else folder.resolve(),
    )


# -- the caller's side


class _Post:
    """The letters of the workers, passed on to the listener."""

    def __init__(self, ray: Any, post: Any, trials: Sequence[Trial], listener: Listener) -> None:
        self._ray, self._post, self._trials, self._listener = ray, post, trials, listener
        self._asked = post.take.remote()

    def hear(self, seconds: float = 0.0) -> None:
        """Pass on what the workers have told since the last time; wait so long for the post's answer."""
        ready, _ = self._ray.wait([self._asked], timeout=seconds)
        if not ready:
            return
        try:
            letters: list[tuple[int, int | str, str]] = self._ray.get(self._asked)
        except self._ray.exceptions.RayError:
            letters = []  # Ray begins the post again; what is lost is how far trials are, for a while
        self._asked = self._post.take.remote()
        for index, told, worker in letters:
            trial = self._trials[index]
            if isinstance(told, str):
                self._listener.on_note(trial, told)
            else:
                logger.debug("%s: epoch %d, %s", trial, told, worker)
                self._listener.on_epoch(trial, told)


def _follow(
    ray: Any, running: Mapping[Any, int], trials: Sequence[Trial], post: _Post, listener: Listener
) -> list[Failure]:
    waiting, failures = dict(running), []
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=POLL_SECONDS)
        post.hear()
        for reference in done:
            index = waiting.pop(reference)
            try:
                answer, worker = ray.get(reference)
            except ray.exceptions.RayError as error:
                answer, worker = f"Ray lost its process {RESTARTS + 1} times; perhaps memory ran out: {error}", "nobody"
            logger.debug("%s: ended, %s", trials[index], worker)
            if isinstance(answer, str):
                failures.append(Failure(trials[index], answer))
            else:
                listener.on_outcome(answer)
    for _ in ("what was asked for already", "what came after that"):
        post.hear(GRACE_SECONDS)
    return failures


def _cancel(ray: Any, references: list[Any]) -> None:
    """Stop all tasks, leaving those that run a moment for their checkpoints."""
    for reference in references:
        ray.cancel(reference)
    _, left = ray.wait(references, num_returns=len(references), timeout=GRACE_SECONDS, fetch_local=False)
    for reference in left:
        ray.cancel(reference, force=True)


# -- the workers' side


def _post_class() -> type:
    """Return the actor that keeps the workers' letters until the caller takes them.

    A class of a module is sent as its name: the actor would import the module, and torch with it. This is sent whole.
    """

    class Post:
        def __init__(self) -> None:
            self._letters: list[Any] = []

        def tell(self, *letter: Any) -> None:
            self._letters.append(letter)

        def take(self) -> list[Any]:
            taken, self._letters = self._letters, []
            return taken

    return Post


def _work(index: int, trial: Trial, circumstances: Circumstances, post: Any) -> tuple[Outcome | Unfinished | str, str]:
    """Run a trial; return what came of it or, in words, why there is none, and who ran it."""
    keep_freed_memory()
    stop = threading.Event()
    # Ray cancels a task by an interrupt: the trial shall end between two steps, with a checkpoint.
    before = signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    worker = f"process {os.getpid()} on {platform.node()}"

    def tell(told: int | str) -> None:
        post.tell.remote(index, told, worker)

    try:
        return run_trial(trial, circumstances, Signals(tell, tell, stop.is_set)), worker
    except Exception:
        return traceback.format_exc(), worker
    finally:
        signal.signal(signal.SIGINT, before)
