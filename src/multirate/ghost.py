"""The ghost step that checkpoint tools take to make state appear: every ``lr`` and every gradient is 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def awake(groups: Iterable[Mapping[str, Any]], device: torch.device, dtype: torch.dtype) -> Tensor | float:
    """0 when every ``lr`` and every gradient of some param groups is 0, else 1; a ghost step has to change nothing.

    Gradients are looked at only while the host sees no learning rate above 0, and nothing is read back.
    """
    groups = list(groups)
    rates = [group["lr"] for group in groups]
    if any(not isinstance(lr, Tensor) and lr != 0 for lr in rates):
        return 1.0
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    seen = [(g.to_dense() if g.is_sparse else g).ne(0).any().to(device) for g in gradients]
    seen += [lr.ne(0).to(device).reshape(()) for lr in rates if isinstance(lr, Tensor)]
    return torch.stack(seen).any().to(dtype) if gradients else 0.0
