"""A trial under way, kept in one file that is whole or absent."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from multirate.lab.storage import write_whole

_DIGEST = hashlib.sha256().digest_size

# Hooks are functions, and a scheduler replaces `step` by one; whoever made them makes them again.
_NOT_KEPT = ("_hook", "_hooks")


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint completely or not at all.

    Raises:
        OSError: If it cannot be written; an older checkpoint is still there then.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    payload = buffer.getvalue()
    write_whole(path, hashlib.sha256(payload).digest() + payload)


def read_checkpoint(path: Path, device: torch.device | None = None) -> dict[str, Any] | None:
    """Return a checkpoint, or None when there is none that can be read.

    A checkpoint is a pickle: it is read only from an experiment's own folder, where this program wrote it.

    Args:
        path: The file.
        device: Where tensors go that were on a GPU, of whatever number; None is the CPU. Those that were on the CPU
            stay there.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, payload = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(payload), lambda storage, place: _placed(storage, place, device), weights_only=False
        )
    except Exception:  # whatever a pickle of another version of the code raises: the trial starts again
        return None
    return content


def _placed(storage: Any, place: str, device: torch.device | None) -> Any:
    if not place.startswith("cuda") or device is None or device.type != "cuda":
        return storage
    return storage.cuda(device.index)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of torch's random streams on the CPU and on a GPU, by their names in a checkpoint."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"random": torch.get_rng_state(), "cuda_random": cuda}


def restore_random_state(kept: Mapping[str, Any], device: torch.device) -> None:
    """Put torch's random streams into a state that `random_state` gave."""
    torch.set_rng_state(kept["random"].cpu())
    if kept["cuda_random"] is not None:
        torch.cuda.set_rng_state(kept["cuda_random"].cpu(), device)


def pack_optimizer(optimizer: Any) -> Any:
    """Return an optimizer as something that a pickle keeps whole.

    `torch.optim.Optimizer` pickles its state and groups alone; what else an optimizer holds would be lost unless its
    author saw to it.
    """
    if "__getstate__" in _defined_below(type(optimizer), Optimizer):
        return optimizer
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name != "step" and not name.endswith(_NOT_KEPT) and name != "_zero_grad_profile_name"
    }


def _defined_below(kind: type, ancestor: type) -> set[str]:
    """Return what a class and its ancestors define, down to one ancestor that is left out."""
    return {name for each in kind.__mro__ if not issubclass(ancestor, each) for name in vars(each)}


def unpack_optimizer(packed: Any, fresh: Callable[[], Any]) -> Any:
    """Return the optimizer that was packed.

    Args:
        packed: What `pack_optimizer` gave, after a pickle.
        fresh: Makes an optimizer of the same kind over the parameters that came out of the same pickle.
    """
    if not isinstance(packed, dict):
        return packed
    made = fresh()
    vars(made).update(packed)
    return made
