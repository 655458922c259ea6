"""Compiled kernels kept on disk: compiled once, the same in every process, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import pytest
import torch

import multirate
from multirate.cache_folder import cache_folder
from multirate.kernels import compiled
from multirate.kernels.compiled import numba_compiler

numba = pytest.importorskip("numba")
CFunc = pytest.importorskip("numba.core.ccallback").CFunc

TRAIN = """
import torch, multirate
from numba.core.ccallback import CFunc

compile, count = CFunc._compile_uncached, 0
def counted(self):
    global count
    count += 1
    return compile(self)
CFunc._compile_uncached = counted

torch.set_num_threads(1)
parameter = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 300).reshape(10, 30))
optimizer = multirate.AdamCAMHD([parameter], 1e-2, levels=("global", "unit"), hyper_lr=1e-4)
for _ in range(4):
    parameter.grad = parameter.detach().sin()
    optimizer.step()
print(count, parameter.detach().numpy().tobytes().hex())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[int, torch.Tensor]]]:
    """Train as a process does that has compiled nothing yet; returns how much was compiled, and the parameter."""
    compiles: list[str] = []
    compile_ = CFunc._compile_uncached
    monkeypatch.setattr(CFunc, "_compile_uncached", lambda self: compiles.append(self.__name__) or compile_(self))

    def run() -> tuple[int, torch.Tensor]:
        compiles.clear()
        compiled._known.clear()
        numba_compiler.compiled.cache_clear()
        parameter = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 20))
        optimizer = multirate.AdamHD([parameter], 1e-2, hyper_lr=1e-4)
        for _ in range(3):
            parameter.grad = parameter.detach() * 2
            optimizer.step()
        return len(compiles), parameter.detach()

    yield run
    compiled._known.clear()
    numba_compiler.compiled.cache_clear()


def test_another_process_compiles_nothing_and_gives_the_same_bits(folder: Path) -> None:
    environment = {**os.environ, "MULTIRATE_CACHE": str(folder.parent)}
    said = [
        subprocess.run([sys.executable, "-c", TRAIN], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    (first, bits), (second, same) = (done.stdout.split() for done in said)
    assert int(first) > 0
    assert int(second) == 0
    assert bits == same


@pytest.mark.parametrize(("kind", "damage"), [("nbc", "cut"), ("nbc", "garbled"), ("nbi", "emptied"), ("py", "cut")])
def test_damaged_files_are_made_again(kind: str, damage: str, folder: Path, train: Callable) -> None:
    count, expected = train()
    assert count > 0
    files = [*folder.rglob(f"*.{kind}")]
    assert len(files) == count
    for file in files:
        whole = file.read_bytes()
        file.write_bytes({"emptied": b"", "cut": whole[: len(whole) // 2], "garbled": b"\x80" + whole[::-1]}[damage])
    again, found = train()
    assert again == count
    assert torch.equal(found, expected)
    healthy, found = train()
    assert healthy == (0 if kind == "py" else count)  # what was damaged is gone; it is kept anew the next time
    assert torch.equal(found, expected)
    assert train()[0] == 0


def test_what_is_compiled_otherwise_is_another_file(
    folder: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, _ = train()
    monkeypatch.setattr(numba, "__version__", "another")
    assert train()[0] == count
    assert len([*folder.glob("*.py")]) == 2 * count


def test_without_a_folder_to_write_to_every_process_compiles(
    tmp_path: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "file" / "cache"))
    counts = [train()[0] for _ in range(2)]
    assert counts[0] == counts[1] > 0
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_folder_is_the_users_own_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIRATE_CACHE")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "user" / name))
    assert cache_folder() == tmp_path / "user" / "multirate"
