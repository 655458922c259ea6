"""Lookahead around Adam, from the package `pytorch_optimizer`."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_optimizer import Lookahead


class LookaheadAdam(Lookahead):
    """Adam with slow weights; `eval()` puts them into the model, `train()` takes them out again.

    Args:
        params: Parameters, or pairs of name and parameter.
        lr: Learning rate of Adam.
        k: Fast steps for every slow one.
        alpha: How far a slow step goes towards the fast weights.
        betas: Adam's.
        eps: Adam's.

    Reference:
        Zhang, Lucas, Hinton, Ba: Lookahead optimizer: k steps forward, 1 step back, 2019, Algorithm 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        k: int = 5,
        alpha: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(torch.optim.Adam(params, lr=lr, betas=betas, eps=eps), k=k, alpha=alpha)
        self._shows_slow = False

    def eval(self) -> None:
        """Put the slow weights into the model."""
        if not self._shows_slow:
            self.backup_and_load_cache()
            self._shows_slow = True

    def train(self) -> None:
        """Put the fast weights back."""
        if self._shows_slow:
            self.clear_and_load_backup()
            self._shows_slow = False

    def __getstate__(self) -> dict[str, Any]:
        # The package leaves the defaults out, and cannot be read back without them.
        return {
            **super().__getstate__(),  # type: ignore[no-untyped-call]
            "defaults": self.defaults,
            "_shows_slow": self._shows_slow,
        }
