"""Where a result was made: versions, code revision, hardware."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "multirate": _own_version(),
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


def _own_version() -> str:
    try:
        return importlib.metadata.version("multirate")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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
