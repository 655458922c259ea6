"""What is kept survives crashes, and what is damaged is named."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from multirate.lab.results import Outcome, Trial, TrialResult
from multirate.lab.storage import Storage, StorageError, write_whole


@pytest.fixture
def outcome(make_result):
    return lambda seed: Outcome(make_result("adam", seed, 0.5), {"step": [1], "train_loss": [None]})


def test_rows_and_curves_come_back(tmp_path, outcome):
    storage = Storage(tmp_path / "new")
    assert storage.results() == []
    for seed in (0, 1):
        storage.add(outcome(seed))
    assert storage.results() == [outcome(0).result, outcome(1).result]
    assert storage.curves(Trial("digits/ffnn", "adam", 1, 1)) == {"step": [1], "train_loss": [None]}


def test_a_line_cut_off_by_a_crash_is_passed_over_and_replaced(tmp_path, outcome):
    storage = Storage(tmp_path)
    storage.add(outcome(0))
    with storage.rows_path.open("a") as stream:
        stream.write('{"task": "digits/ffnn", "opti')
    assert storage.results() == [outcome(0).result]
    storage.add(outcome(1))
    assert storage.results() == [outcome(0).result, outcome(1).result]


def test_a_line_cut_off_within_a_character_is_passed_over_too(tmp_path, outcome):
    storage = Storage(tmp_path)
    storage.add(outcome(0))
    with storage.rows_path.open("ab") as stream:
        stream.write('{"command": "--out ü'.encode()[:-1])
    assert storage.results() == [outcome(0).result]
    storage.add(outcome(1))
    assert storage.results() == [outcome(0).result, outcome(1).result]


def test_what_a_killed_process_left_behind_is_tidied_up(tmp_path, outcome, monkeypatch):
    storage = Storage(tmp_path)
    storage.add(outcome(0))
    kept = storage.checkpoints / "waiting.pt"
    write_whole(kept, "checkpoint")

    def die(*_):
        raise SystemExit

    # A process that dies before the rename leaves its temporary file.
    monkeypatch.setattr(os, "replace", die)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        write_whole(kept, "newer")
    monkeypatch.undo()
    assert len(list(storage.checkpoints.iterdir())) == 2
    storage.tidy()
    assert list(storage.checkpoints.iterdir()) == [kept]
    assert kept.read_text() == "checkpoint"
    assert storage.results() == [outcome(0).result]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda line: "not json", "Expecting value"),
        (lambda line: "[1]", "JSON object"),
        (lambda line: '{"task": "digits/ffnn"}', "missing command, diverged"),
        (lambda line: line.replace("digits/ffnn", "../../etc"), "task name"),
        (lambda line: line.replace('"adam"', '"/adam"'), "optimizer name"),
    ],
)
def test_a_damaged_line_is_named_by_file_and_number(tmp_path, outcome, damage, reason):
    storage = Storage(tmp_path)
    storage.add(outcome(0))
    with storage.rows_path.open("a") as stream:
        stream.write(damage(outcome(1).result.to_json()) + "\n")
    with pytest.raises(StorageError, match=r"results\.jsonl, line 2.*") as caught:
        storage.results()
    assert reason in str(caught.value)


def test_rows_hold_no_number_that_json_does_not_know(outcome):
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(outcome(0).result, test_loss=float("nan")).to_json()


def test_fields_of_a_later_version_are_passed_over(outcome):
    row = json.loads(outcome(0).result.to_json()) | {"later": 1}
    assert TrialResult.from_json(json.dumps(row)) == outcome(0).result


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "first")

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "second")
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["file"]


def test_files_have_the_usual_permissions(tmp_path):
    write_whole(tmp_path / "file", "text")
    (tmp_path / "usual").write_text("text")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_full_disk_is_told_as_such(tmp_path, outcome, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        Storage(tmp_path).add(outcome(0))
    assert Storage(tmp_path).results() == []
