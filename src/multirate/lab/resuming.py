"""Which checkpoint a trial may go on from, and what is said where one is given up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from multirate.lab.checkpoint import read_checkpoint
from multirate.lab.results import Trial

TRUSTED = {"code", "versions"}
"""Parts of an identity that may be told to make no difference: another code or package may compute the same."""


def checkpoint_path(folder: Path, trial: Trial) -> Path:
    """Return where a trial keeps its checkpoint."""
    return folder / f"{trial.stem}.pt"


def set_aside_path(folder: Path, trial: Trial) -> Path:
    """Return where a checkpoint lies that the trial did not go on from."""
    return folder / f"{trial.stem}.other.pt"


def remove_checkpoints(folder: Path, trial: Trial) -> None:
    """Remove what a finished trial no longer needs."""
    for path in (checkpoint_path(folder, trial), set_aside_path(folder, trial)):
        path.unlink(missing_ok=True)


def find_checkpoint(
    folder: Path,
    trial: Trial,
    identity: Mapping[str, Any],
    device: torch.device,
    *,
    trust: bool,
    on_note: Callable[[str], None],
) -> dict[str, Any] | None:
    """Return the checkpoint that a trial goes on from, or None when there is none.

    One that is of something else is set aside, so that nothing is lost before its owner has read why.

    Args:
        folder: Where checkpoints are.
        trial: The trial.
        identity: What a checkpoint must agree in; `revision` is not compared, but told.
        device: Where its tensors go that were on a GPU.
        trust: Whether to go on across a difference of code or package versions.
        on_note: Told of a checkpoint that is not gone on from, or gone on from across a difference.
    """
    path = checkpoint_path(folder, trial)
    if not path.exists():
        return None
    kept = read_checkpoint(path, device)
    if kept is None:
        on_note("starts again: its checkpoint is damaged, or of a version that is no longer there")
        return None
    other = [name for name in identity if name != "revision" and kept["identity"].get(name, _UNKNOWN) != identity[name]]
    if not other:
        return kept
    why = ", ".join(_difference(name, kept["identity"], identity) for name in other)
    state, epochs = kept["state"], kept["identity"].get("epochs", trial.epochs)
    done = f"{state.epoch} of {epochs} epochs and {state.batch} steps"
    if trust and set(other) <= TRUSTED:
        on_note(f"goes on after {done}, though its checkpoint has {why}")
        return kept
    aside = set_aside_path(folder, trial)
    path.replace(aside)
    cure = f": to go on from it, stop, rename it to {path.name} and add --trust-checkpoints"
    on_note(
        f"starts again and loses {done}: its checkpoint has {why}. It is set aside as {aside.name}"
        f"{cure if set(other) <= TRUSTED else ''}."
    )
    return None


_UNKNOWN = object()


def _difference(name: str, kept: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    if name == "code":
        return f"other code (revision {kept.get('revision')}, now {own['revision']})"
    before, now = kept.get(name), own[name]
    if isinstance(before, Mapping):
        names = [each for each in {**before, **now} if before.get(each, _UNKNOWN) != now.get(each, _UNKNOWN)]
        told = ", ".join(f"{each} {before.get(each)} instead of {now.get(each)}" for each in names)
        return f"other {name} ({told})"
    return f"{name} {before} instead of {now}"
