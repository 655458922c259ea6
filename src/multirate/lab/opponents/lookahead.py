"""Lookahead around Adam, from the package `pytorch_optimizer`."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_optimizer import Lookahead


class LookaheadAdam(Lookahead):
    """Adam with slow weights.

    Args:
        params: Parameters, or pairs of name and parameter.
        lr: Learning rate of Adam.
        k: Fast steps for every slow one.
        alpha: How far a slow step goes towards the fast weights.

    Reference:
        Zhang, Lucas, Hinton, Ba: Lookahead optimizer: k steps forward, 1 step back, 2019, Algorithm 1.
    """

    def __init__(self, params: Any, lr: float = 1e-3, k: int = 5, alpha: float = 0.5) -> None:
        super().__init__(torch.optim.Adam(params, lr=lr), k=k, alpha=alpha)

    def __getstate__(self) -> dict[str, Any]:
        # The package leaves the defaults out, and cannot be read back without them.
        return {
            **super().__getstate__(),  # type: ignore[no-untyped-call]
            "defaults": self.defaults,
        }
