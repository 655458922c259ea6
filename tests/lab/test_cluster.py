"""Trials on Ray: a cluster of two CPUs, started here."""

import dataclasses
import importlib.util
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from multirate.lab import cluster
from multirate.lab.checkpoint import read_checkpoint, write_checkpoint
from multirate.lab.circumstances import Circumstances, Signals, StoppedError
from multirate.lab.cluster import ClusterError, run_on_cluster
from multirate.lab.machine import Machine
from multirate.lab.results import Trial
from multirate.lab.resuming import checkpoint_path
from multirate.lab.runner import Listener, Workers, run_trials
from multirate.lab.trial import run_trial


@pytest.fixture(scope="module")
def ray():
    """Skip where Ray is missing, but never where all tests are meant to run."""
    if importlib.util.find_spec("ray") is None:
        if os.environ.get("CI"):
            pytest.fail("no Ray: pip install ray")
        pytest.skip("needs ray")


needs_ray = pytest.mark.usefixtures("ray")

TASK = "digits/ffnn"
LINE = re.compile(r"(.*): (.*), process (\d+) on ")


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.epochs = {}
        self.outcomes = {}
        self.processes = set()
        self.listener = Listener(self.on_epoch, self.on_outcome)

    def on_epoch(self, trial, epoch):
        self.epochs.setdefault(trial, []).append(epoch)
        self.processes.add(os.getpid())

    def on_outcome(self, outcome):
        assert outcome.result.trial not in self.outcomes
        self.outcomes[outcome.result.trial] = outcome
        self.processes.add(os.getpid())


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def processes(caplog):
    """The process of every message from a worker so far."""
    caplog.set_level(logging.DEBUG, logger=cluster.__name__)

    def read():
        lines = [record.getMessage() for record in caplog.records if record.name == cluster.__name__]
        return [int(LINE.match(line)[3]) for line in lines]

    return read


@pytest.fixture(autouse=True)
def two_workers(monkeypatch):
    monkeypatch.setattr(cluster, "LOCAL_CPUS", 2)


HEAD = """
import logging, sys, ray
ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR, object_store_memory=100 * 2**20, _temp_dir=sys.argv[1])
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def address(ray):
    """Address of a cluster that another process keeps; paths of its sockets must be short."""
    with (
        pytest.MonkeyPatch.context() as environment,
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
    ):
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        command = [sys.executable, "-c", HEAD, folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as head:
            yield head.stdout.readline().strip()
            head.communicate("\n", timeout=30)


def lasting(outcome):
    """What must be the same wherever a trial runs: all but times, and the revision: somebody may commit meanwhile."""
    row = dataclasses.asdict(outcome.result)
    curves = dict(outcome.curves)
    del row["seconds"], row["cpu_seconds"], row["preparation_seconds"], row["revision"], curves["epoch_seconds"]
    return row, curves


def assert_same(outcomes, expected):
    assert outcomes.keys() == expected.keys()
    for trial, outcome in outcomes.items():
        assert lasting(outcome) == lasting(expected[trial])


def run_here(trials):
    heard = Heard()
    assert run_trials(trials, Workers(), Circumstances(), heard.listener) == []
    return heard.outcomes


@needs_ray
def test_two_workers_give_bit_for_bit_what_one_process_gives_and_a_failure_holds_nobody_up(heard, processes, capfd):
    trials = [Trial(TASK, name, seed, epochs=2) for name in ("adam", "adam-cam-hd") for seed in (0, 1)]
    wrong = Trial(TASK, "no-such-optimizer", 0, epochs=2)
    failures = run_trials([wrong, *trials], Workers(ray="local"), Circumstances(), heard.listener)
    assert [failure.trial for failure in failures] == [wrong]
    assert "Traceback" in failures[0].details
    assert "unknown optimizer 'no-such-optimizer'" in failures[0].details
    assert heard.epochs == {trial: [0, 1, 2] for trial in trials}
    assert heard.processes == {os.getpid()}
    assert_same(heard.outcomes, run_here(trials))
    assert len(set(processes())) == 2
    assert os.getpid() not in processes()
    assert capfd.readouterr() == ("", "")


@needs_ray
def test_a_killed_worker_is_replaced_and_its_trial_goes_on_from_the_checkpoint(heard, processes, address, tmp_path):
    trial = Trial(TASK, "adam-cam-hd", 0, epochs=6)
    killed, seconds = [], []

    def on_epoch(trial, epoch):
        heard.on_epoch(trial, epoch)
        kept = read_checkpoint(checkpoint_path(tmp_path, trial))
        if not killed and processes() and kept is not None and kept["state"].epoch >= 3:
            seconds.extend(kept["state"].curves["epoch_seconds"])
            killed.append(processes()[-1])
            os.kill(killed[0], signal.SIGKILL)

    circumstances = Circumstances(checkpoints=tmp_path, interval=0.0)
    assert run_on_cluster([trial], address, circumstances, Listener(on_epoch, heard.on_outcome)) == []
    # Begun twice, the second time where the checkpoint was.
    assert heard.epochs[trial][0] == 0
    assert sum(now != before + 1 for before, now in itertools.pairwise(heard.epochs[trial])) == 1
    assert_same(heard.outcomes, run_here([trial]))
    assert set(processes()) > set(killed)
    # Times are never the same twice: those of the killed process are there only by way of its checkpoint.
    assert len(seconds) >= 4
    assert heard.outcomes[trial].curves["epoch_seconds"][: len(seconds)] == seconds


@needs_ray
def test_a_checkpoint_that_is_not_gone_on_from_is_told(heard, address, tmp_path):
    trial = Trial(TASK, "adam", 0, epochs=1)
    with pytest.raises(StoppedError):
        run_trial(trial, Circumstances(checkpoints=tmp_path), Signals(should_stop=lambda: True))
    path = checkpoint_path(tmp_path, trial)
    content = read_checkpoint(path)
    content["identity"]["code"] = "other"
    write_checkpoint(path, content)
    notes = []
    listener = dataclasses.replace(heard.listener, on_note=lambda *note: notes.append(note))
    assert run_on_cluster([trial], address, Circumstances(checkpoints=tmp_path), listener) == []
    [(noted, text)] = notes
    assert noted == trial
    assert text.startswith("starts again and loses 0 of 1 epochs and 1 steps: its checkpoint has other code")


@needs_ray
def test_an_interrupt_cancels_what_runs_and_leaves_checkpoints_and_cluster(address, tmp_path):
    def interrupt(trial, epoch):
        if epoch > 0:
            raise KeyboardInterrupt

    trials = [Trial(TASK, "adam", seed, epochs=100_000) for seed in range(4)]
    listener = Listener(interrupt, lambda outcome: pytest.fail("finished"))
    with pytest.raises(KeyboardInterrupt):
        run_on_cluster(trials, address, Circumstances(checkpoints=tmp_path, interval=1e6), listener)
    # The interval never passes: only a trial that was told to stop writes one.
    assert 1 <= len(list(tmp_path.glob("*.pt"))) <= 2
    cluster._check_reachable(address)


@needs_ray
def test_a_gpu_is_asked_for_only_where_there_is_one(heard, address):
    trial = Trial(TASK, "adam", 0, epochs=1)
    with pytest.raises(ClusterError, match="has no GPU: add a node with one, or choose the device cpu"):
        run_on_cluster([trial], address, Circumstances(machine=Machine("cuda:1")), heard.listener)


@needs_ray
def test_the_command_line_runs_on_two_workers_and_gives_what_it_gives_without(invoke, processes, address, tmp_path):
    words = ("compare", "--task", TASK, "--optimizers", "adam,adam-cam-hd", "--seeds", 2, "--epochs", 2)
    spread = invoke(*words, "--ray", address, "--out", tmp_path / "spread")
    assert spread.exit_code == 0, spread.output
    assert len(set(processes()) - {os.getpid()}) == 2
    assert invoke(*words, "--out", tmp_path / "here").exit_code == 0

    def rows(folder):
        lines = (tmp_path / folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
        return {(row["optimizer"], row["seed"]): row for row in map(json.loads, lines)}

    def curves(path):
        return {name: curve for name, curve in json.loads(path.read_text()).items() if name != "epoch_seconds"}

    found, expected = rows("spread"), rows("here")
    assert found.keys() == expected.keys()
    for cell, row in found.items():
        assert f"--ray {address}" in row["command"]
        for name in ("steps", "test_loss", "test_accuracy", "machine", "settings"):
            assert row[name] == expected[cell][name]
    for path in (tmp_path / "here" / "trials").iterdir():
        assert curves(tmp_path / "spread" / "trials" / path.name) == curves(path)
    # What is there is kept: nothing is left to ask the cluster for.
    again = invoke(*words, "--ray", address, "--out", tmp_path / "spread")
    assert "4 finished trials are kept" in again.output


@needs_ray
def test_the_cluster_and_not_the_machine_of_the_command_says_whether_there_is_a_gpu(invoke, address, tmp_path):
    words = ("compare", "--task", TASK, "--optimizers", "adam", "--seeds", 1, "--ray", address, "--out", tmp_path)
    done = invoke(*words, "--device", "cuda")
    assert done.exit_code == 1
    assert "has no GPU: add a node with one" in done.output
    done = invoke(*words, "--device", "abacus")
    assert done.exit_code == 2
    assert "'abacus' is none to train on" in done.output


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 2, "cuda"), ("auto", 0, "cpu"), ("cpu", 2, "cpu"), ("cuda", 0, "cuda"), ("cuda:1", 2, "cuda")],
)
def test_auto_is_what_the_cluster_has(device, gpus, expected, monkeypatch):
    """This machine, with or without a GPU, has no say."""
    for here in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda here=here: here)
        machine = Machine(device)
        sent = cluster._for_workers(Circumstances(machine=machine), cluster._wants_gpu(machine, gpus))
        assert sent.machine.device == expected


@needs_ray
def test_the_kind_of_device_is_told_before_a_trial_begins(heard, address):
    def refuse(kind):
        raise ValueError(f"not on a {kind}")

    listener = dataclasses.replace(heard.listener, on_device=refuse)
    with pytest.raises(ValueError, match="not on a cpu"):
        run_on_cluster([Trial(TASK, "adam", 0, epochs=1)], address, Circumstances(), listener)
    assert not heard.outcomes


def test_a_worker_calls_the_one_gpu_that_it_sees_by_its_name_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    circumstances = Circumstances(machine=Machine("cuda:1", bf16=True), checkpoints=Path("here"))
    sent = cluster._for_workers(circumstances, wants_gpu=True)
    assert sent == Circumstances(machine=Machine("cuda", bf16=True), checkpoints=tmp_path / "here")


def test_the_workers_environment_names_folders_that_any_process_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MULTIRATE_DATA", "data")
    monkeypatch.delenv("MULTIRATE_CACHE", raising=False)
    assert cluster._variables() == {"OMP_NUM_THREADS": "1", "MULTIRATE_DATA": str(tmp_path / "data")}


@needs_ray
def test_an_address_where_nothing_answers_is_named_at_once(heard):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ClusterError, match=f"no Ray cluster answers at '{address}'.*check the address"):
            run_on_cluster([Trial(TASK, "adam", 0, epochs=1)], address, Circumstances(), heard.listener)
        assert time.monotonic() - started < 10


@needs_ray
def test_an_address_without_a_port_is_refused(heard):
    with pytest.raises(ClusterError, match="'somewhere' must be local, auto, HOST:PORT"):
        run_on_cluster([Trial(TASK, "adam", 0, epochs=1)], "somewhere", Circumstances(), heard.listener)


def test_a_missing_package_is_told_with_its_cure(heard, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"pip install 'multirate\[ray\]'"):
        run_on_cluster([Trial(TASK, "adam", 0, epochs=1)], "local", Circumstances(), heard.listener)
