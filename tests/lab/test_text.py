"""The text for language models."""

import os

import pytest
import torch

from multirate.lab.data import text
from multirate.lab.data.sources import DataError
from multirate.lab.data.text import Text, tiny_shakespeare

CONTENT = "To be,\r\nor nöt to be" * 5


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A short text in the place of the real one, whose size is expected."""
    path = tmp_path / "tinyshakespeare" / "input.txt"
    path.parent.mkdir()
    path.write_bytes(CONTENT.encode())
    monkeypatch.setenv("MULTIRATE_DATA", str(tmp_path))
    monkeypatch.setattr(text, "CHARACTERS", 100)
    monkeypatch.setattr(text, "DISTINCT", len(set(CONTENT)))
    return path


def test_the_text_can_be_read_back_and_the_last_tenth_is_the_test(file):
    result = tiny_shakespeare.__wrapped__()
    assert result.vocabulary == tuple(sorted(set(CONTENT)))
    assert result.train.dtype == result.test.dtype == torch.int64
    assert "".join(result.vocabulary[index] for index in result.train) == CONTENT[:90]
    assert "".join(result.vocabulary[index] for index in result.test) == CONTENT[90:]


def test_a_missing_text_is_told(file, monkeypatch):
    file.unlink()
    with pytest.raises(DataError, match=r"input\.txt is missing.*--data-dir or MULTIRATE_DATA"):
        tiny_shakespeare.__wrapped__()
    monkeypatch.delenv("MULTIRATE_DATA")
    with pytest.raises(DataError, match=r"MULTIRATE_DATA is not set.*holds tinyshakespeare/input\.txt"):
        tiny_shakespeare.__wrapped__()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1].encode(), r"99 characters, \d+ of them distinct, not 100"),
        (CONTENT.replace("ö", "o").encode(), r"100 characters, \d+ of them distinct"),
        (b"\xff" + CONTENT.encode(), "cannot be read"),
    ],
)
def test_another_text_is_refused(file, content, message):
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        tiny_shakespeare.__wrapped__()
    assert str(file) in str(caught.value)


def test_indices_must_fit_the_vocabulary():
    good = torch.tensor([0, 1])
    Text(good, good, ("a", "b"))
    with pytest.raises(ValueError, match=r"train text.*0\.\.1"):
        Text(good + 1, good, ("a", "b"))
    with pytest.raises(ValueError, match=r"test text.*0\.\.1"):
        Text(good, good - 1, ("a", "b"))
    with pytest.raises(ValueError, match="not a sequence"):
        Text(good, good[:0], ("a", "b"))


@pytest.mark.skipif(not os.environ.get("MULTIRATE_DATA"), reason="MULTIRATE_DATA is not set")
def test_the_real_text_is_read():
    result = tiny_shakespeare()
    assert (len(result.train), len(result.test), len(result.vocabulary)) == (1_003_854, 111_540, 65)
    assert "".join(result.vocabulary[index] for index in result.train[:14]) == "First Citizen:"
