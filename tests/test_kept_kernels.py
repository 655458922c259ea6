"""Compiled kernels kept on disk: compiled once, the same in every process, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import multirate
from multirate import numba_compiler
from multirate.cache_folder import cache_folder
from multirate.kernels import compiled
from multirate.replay import interpreter

numba = pytest.importorskip("numba")
platformdirs = pytest.importorskip("platformdirs")
CFunc = pytest.importorskip("numba.core.ccallback").CFunc

TRAIN = """
import sys
import torch, multirate
from numba.core.ccallback import CFunc

compile, count = CFunc._compile_uncached, 0
def counted(self):
    global count
    count += 1
    return compile(self)
CFunc._compile_uncached = counted

torch.set_num_threads(1)
for name in sys.argv[1:]:
    parameter = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 300).reshape(10, 30))
    optimizer = getattr(multirate, name)([parameter], 1e-2)
    for _ in range(4):
        parameter.grad = parameter.detach().sin()
        optimizer.step()
    print(parameter.detach().numpy().tobytes().hex())
print(count)
"""


def process(cache: Path, *names: str, **environment: str) -> tuple[list[str], int]:
    """Train with some optimizers in a process of its own; returns the bits of each, and how much was compiled."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *names],
        env={**os.environ, "MULTIRATE_CACHE": str(cache), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *bits, count = done.stdout.split()
    return bits, int(count)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
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
        interpreter.machine.cache_clear()
        numba_compiler.compiled.cache_clear()
        parameter = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 20))
        optimizer = multirate.AdamHD([parameter], 1e-2, hyper_lr=1e-4)
        for _ in range(3):
            parameter.grad = parameter.detach() * 2
            optimizer.step()
        return len(compiles), parameter.detach()

    yield run
    compiled._known.clear()
    interpreter.machine.cache_clear()
    numba_compiler.compiled.cache_clear()


def test_another_process_compiles_nothing_and_gives_the_same_bits(folder: Path) -> None:
    first, compiles = process(folder.parent, "AdamCAMHD")
    assert compiles > 0
    assert process(folder.parent, "AdamCAMHD") == (first, 0)


def test_kernels_of_two_processes_stay_two_in_a_third(folder: Path, tmp_path: Path) -> None:
    # Numba names what it compiles by the order of a set and by a count: the same in processes with the same seed.
    alone = {name: process(folder.parent, name, PYTHONHASHSEED="0")[0] for name in ("AdamHD", "SGDHD")}
    for names in (("SGDHD", "AdamHD"), ("AdamHD", "SGDHD")):
        bits, compiles = process(folder.parent, *names, PYTHONHASHSEED="0")
        assert bits == [*(found for name in names for found in alone[name])]
        assert compiles == 0
    # One is kept, the other is compiled beside it.
    other = tmp_path / "other"
    process(other, "SGDHD", PYTHONHASHSEED="0")
    bits, _ = process(other, "AdamHD", "SGDHD", PYTHONHASHSEED="0")
    assert bits == [*alone["AdamHD"], *alone["SGDHD"]]


@pytest.mark.parametrize(("kind", "damage"), [("nbc", "cut"), ("nbi", "garbled"), ("py", "emptied")])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "where Numba was told to"])
def test_damaged_files_are_made_again(
    kind: str, damage: str, elsewhere: bool, folder: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    if elsewhere:
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder.parent / "numba"))
    count, expected = train()
    assert count > 0
    files = [*folder.parent.rglob(f"*.{kind}")]
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


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [("numba", "__version__", "1"), ("llvmlite", "__version__", "1"), ("numba.config", "BOUNDSCHECK", 1),
     ("numba.config", "OPT", 1)],
)  # fmt: skip
def test_what_is_compiled_otherwise_has_another_name(
    module: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = numba_compiler._key("text", "float32", False)
    place = numba.config if module == "numba.config" else pytest.importorskip(module)
    monkeypatch.setattr(place, name, value)
    assert numba_compiler._key("text", "float32", False) != before
    monkeypatch.undo()
    others = (("text", "float64", False), ("other", "float32", False), ("text", "float32", True))
    assert len({before, *(numba_compiler._key(*what) for what in others)}) == 4
    codegen = type(numba.core.registry.cpu_target.target_context.codegen())
    monkeypatch.setattr(codegen, "magic_tuple", lambda self: ("another processor",))
    assert numba_compiler._key("text", "float32", False) != before


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files here")
@pytest.mark.parametrize("why", ["of another user", "writable by all"])
def test_where_others_may_write_nothing_is_kept_or_executed(
    why: str, folder: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, expected = train()
    assert train()[0] == 0
    if why == "of another user":
        own = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: own + 1)
    else:
        folder.chmod(0o777)
    again, found = train()
    assert again == count
    assert torch.equal(found, expected)


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
