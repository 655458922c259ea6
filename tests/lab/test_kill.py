"""The command is killed with SIGKILL at any moment, and goes on."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multirate.lab.checkpoint import read_checkpoint
from multirate.lab.circumstances import Circumstances, Signals, StoppedError
from multirate.lab.results import Trial
from multirate.lab.resuming import checkpoint_path
from multirate.lab.storage import Storage
from multirate.lab.trial import run_trial

INTERVAL = 0.2
OPTIMIZERS = "adam-cam-hd:lr=0.003+cosine,adam-hd"
EPOCHS, FIRST = 30, 10


def start(out, *more):
    words = ["compare", "--task", "digits/ffnn", "--optimizers", OPTIMIZERS, "--seeds", 1, "--epochs", EPOCHS]
    words += ["--jobs", 2, "--checkpoint-every", INTERVAL, "--out", out, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "multirate.lab", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


def checkpoints(out):
    return sorted((out / "checkpoints").glob("*.pt"))


def rows(out):
    path = out / "results.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return {row["optimizer"]: row for row in map(json.loads, lines)}


def under_way(out):
    """The checkpoints of trials that have no row yet."""
    return set(checkpoints(out)) - {checkpoint_path(out / "checkpoints", row.trial) for row in Storage(out).results()}


def curves_path(out, optimizer):
    [path] = (out / "trials").glob(f"*--{optimizer.replace(':', '_')}--0.json")
    return path


def curves(out, optimizer):
    found = json.loads(curves_path(out, optimizer).read_text())
    del found["epoch_seconds"]
    return found


def processes_of(session):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    finish(start(out))
    return out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for orphans in /proc")
def test_killed_again_and_again_it_gives_what_it_would_have_given(tmp_path, undisturbed):
    steps = {}
    for attempt, whole_group in enumerate([False, True, False]):
        process = start(tmp_path)
        seen = {path: path.stat().st_mtime_ns for path in checkpoints(tmp_path)}
        # A moment at which this attempt has written a checkpoint of its own, and is in the middle of something.
        wait_for(
            lambda seen=seen: (
                len(rows(tmp_path)) == 2
                or any(path.stat().st_mtime_ns != seen.get(path) for path in checkpoints(tmp_path))
            ),
            process,
        )
        time.sleep(0.05 + 0.13 * attempt)
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:  # the parent alone
            process.kill()
        process.communicate()
        # Workers whose parent is gone must not train on beside the next attempt.
        end = time.monotonic() + 60
        while processes_of(process.pid):
            assert time.monotonic() < end, "orphans are still running"
            time.sleep(0.05)
        for path in checkpoints(tmp_path):
            kept = read_checkpoint(path)
            assert kept is not None, "a checkpoint is half-written"
            assert kept["state"].steps >= steps.get(path, 0), "an older checkpoint came back"
            steps[path] = kept["state"].steps
    finish(start(tmp_path))
    finished, expected = rows(tmp_path), rows(undisturbed)
    assert steps, "no attempt was caught in the middle of a trial"
    assert finished.keys() == expected.keys()
    for optimizer, row in finished.items():
        assert row["test_loss"] == expected[optimizer]["test_loss"]
        assert row["steps"] == expected[optimizer]["steps"] == EPOCHS * 45
        assert curves(tmp_path, optimizer) == curves(undisturbed, optimizer)
    assert not checkpoints(tmp_path)


def test_a_kill_after_the_first_result_keeps_it_and_its_trial_is_not_run_again(tmp_path, undisturbed):
    # Three trials in two processes: the last begins only when another has ended.
    more = ("--optimizers", "adam-cam-hd-3")
    process = start(tmp_path, *more)
    wait_for(lambda: rows(tmp_path) and under_way(tmp_path), process, seconds=300)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = rows(tmp_path)
    assert 1 <= len(kept) < 3, "nothing was left to run"
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()[: len(kept)]
    written = {path: path.stat().st_mtime_ns for path in (curves_path(tmp_path, optimizer) for optimizer in kept)}

    output = finish(start(tmp_path, *more))
    assert f"{len(kept)} finished trial" in output
    after = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert after[: len(lines)] == lines, "a finished result was lost or changed"
    assert len(after) == len(rows(tmp_path)) == 3, "a finished trial was run again"
    assert {path: path.stat().st_mtime_ns for path in written} == written
    for optimizer, row in rows(undisturbed).items():
        assert rows(tmp_path)[optimizer]["test_loss"] == row["test_loss"]
        assert curves(tmp_path, optimizer) == curves(undisturbed, optimizer)
    assert not checkpoints(tmp_path)


def test_the_first_epochs_of_all_come_before_the_rest_of_any_and_a_kill_in_between_costs_nothing(
    tmp_path, undisturbed, invoke
):
    process = start(tmp_path, "--first", FIRST)
    wait_for(lambda: len(list((tmp_path / "unfinished").glob("*.json"))) == 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not rows(tmp_path), "a trial was finished before the others had their first epochs"
    for path in checkpoints(tmp_path):
        assert read_checkpoint(path)["state"].epoch >= FIRST

    # What is there is told, and is no result.
    done = invoke("report", tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "unfinished.md").read_text().count(f"{FIRST} of {EPOCHS}") == 2
    assert "Unfinished: digits/ffnn" in (tmp_path / "report.html").read_text()
    assert "adam" not in (tmp_path / "tables.md").read_text()
    left = Storage(tmp_path).unfinished()
    assert {(each.epoch, len(each.curves["epoch"]), len(each.curves["test_loss"])) for each in left} == {
        (FIRST, FIRST + 1, FIRST + 1)
    }

    output = finish(start(tmp_path, "--first", FIRST))
    assert output.count("left after epoch") == 2
    assert output.rindex("left after epoch") < output.index("test loss")
    finished, expected = rows(tmp_path), rows(undisturbed)
    assert finished.keys() == expected.keys()
    for optimizer, row in finished.items():
        assert row["test_loss"] == expected[optimizer]["test_loss"]
        assert curves(tmp_path, optimizer) == curves(undisturbed, optimizer)
    assert not Storage(tmp_path).unfinished()
    assert not list(tmp_path.glob("unfinished*.*"))


INTERRUPTED = Trial("digits/ffnn", "adam-cam-hd:lr=0.003+cosine", seed=0, epochs=100_000)
STAMPED = """
import os, sys, time
from pathlib import Path
from multirate.lab.results import Trial
from multirate.lab.circumstances import Circumstances, Signals
from multirate.lab.trial import run_trial

folder, interval = Path(sys.argv[1]), float(sys.argv[2])
stamps = os.open(folder / "stamps", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def stamp():
    os.write(stamps, f"{time.monotonic()}\\n".encode())
    return False

trial = Trial("digits/ffnn", "adam-cam-hd:lr=0.003+cosine", seed=0, epochs=100_000)
run_trial(trial, Circumstances(checkpoints=folder, interval=interval), Signals(should_stop=stamp))
"""
"""Trains and writes down when every step ended."""


def test_at_most_one_interval_is_lost(tmp_path):
    """What is trained again, after a kill, took no longer than the interval between two checkpoints."""

    def stamps():
        path = tmp_path / "stamps"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [float(line) for line in lines]

    def steps_kept():
        kept = read_checkpoint(checkpoint_path(tmp_path, INTERRUPTED))
        return 0 if kept is None else kept["state"].steps

    process = subprocess.Popen([sys.executable, "-c", STAMPED, str(tmp_path), str(INTERVAL)])
    wait_for(lambda: steps_kept() > 0, process)
    first = steps_kept()
    wait_for(lambda: steps_kept() > first, process)
    time.sleep(INTERVAL / 2)
    process.kill()
    process.communicate()
    kept, lost = steps_kept(), stamps()[steps_kept() :]
    # After each of these steps but the last, less than the interval had passed since the checkpoint.
    assert len(lost) < 2 or lost[-2] - lost[0] < INTERVAL

    taken = itertools.count(1)
    signals = Signals(should_stop=lambda: next(taken) >= 10)
    with pytest.raises(StoppedError):
        run_trial(INTERRUPTED, Circumstances(checkpoints=tmp_path, interval=3600.0), signals)
    assert steps_kept() == kept + 10, "it went on from elsewhere than the checkpoint"
