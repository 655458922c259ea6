"""Where a result was made: versions, code revision, hardware."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

APART = ("bench", "commands", "judging", "reporting")
"""Folders of the lab that no trial runs through: they ask for trials or look at what came of them."""


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a result depends on; packages that are not there are left out.

    Numba compiles kernels for the CPU where it is installed: with it, or another version, sums are added in another
    order and steps take other times.
    """
    found = {name: _version(name) for name in ("numpy", "scipy", "numba")}
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "multirate": _version("multirate") or "not installed",
        **{name: version for name, version in found.items() if version is not None},
    }


@functools.cache
def revision() -> str | None:
    """Return the git revision of this code, `-dirty` when changed since, or None outside a checkout."""
    folder = Path(__file__).parent
    # An installed copy may lie inside some other project's checkout, whose revision says nothing about it.
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    # Results that a run is writing right now do not change the code.
    changed = _git(folder.parent, "status", "--porcelain", "--", ".")
    return f"{commit}-dirty" if changed else commit


@functools.cache
def code() -> str:
    """Return a digest of the code that a trial runs through, whether it is committed or not.

    Unlike the revision it stays the same when documents or results are committed, and differs between two states that
    are both changed since a commit.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        place = path.relative_to(package)
        if path.suffix in (".py", ".pt") and not (place.parts[0] == "lab" and place.parts[1] in APART):
            digest.update(f"{place.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def hardware(device: torch.device | None = None) -> str:
    """Return the processor, its cores and the GPU if one is used, in words.

    Args:
        device: What is computed on; None is the CPU.
    """
    cores = os.cpu_count() or 1
    text = f"{_processor()}, {cores} core{'s' if cores > 1 else ''}"
    if device is not None and device.type == "cuda":
        text += f", {torch.cuda.get_device_name(device)}"
    return text


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
