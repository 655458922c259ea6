"""Lookahead around any optimizer (Zhang et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from multirate.around import Around
from multirate.ghost import awake
from multirate.rules.base import in_range


class Lookahead(Around):
    """Every ``k`` steps of the inner optimizer the slow weights move towards the fast ones, which restart there.

    Args:
        optimizer: Any ``torch.optim.Optimizer``; its groups are shared, so schedulers act on either.
        k: Number of inner steps between two updates of the slow weights, at least 1.
        alpha: Step size of the slow weights, in (0, 1].

    Raises:
        ValueError: For ``k`` or ``alpha`` out of range, or something that is not an optimizer.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.Lookahead(multirate.AdamHD(model.named_parameters()))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()

    Reference:
        Zhang, Lucas, Hinton, Ba: Lookahead Optimizer: k steps forward, 1 step back, NeurIPS 2019.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k: {k!r} must be a whole number of steps, at least 1")
        if not in_range("alpha", alpha, low=0.0, high=1.0) > 0:
            raise ValueError(f"alpha: {alpha!r} must be above 0, or the slow weights never move")
        if getattr(optimizer, "in_backward", False) and getattr(optimizer, "moves_first", False):
            raise ValueError(
                "optimizer: one that moves parameters in backward leaves no gradients to tell what was moved; "
                "use in_backward=False inside of Lookahead"
            )
        self.k, self.alpha = k, alpha
        super().__init__(optimizer)

    def _own_state(self, parameter: Tensor) -> dict[str, Any]:
        return {"slow": parameter.detach().clone(), "lookahead_step": torch.zeros(())}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step of the inner optimizer and, at every k-th, one of the slow weights."""
        skipped = self._skipped()
        loss = self.optimizer.step(closure) if closure is not None else self.optimizer.step()
        live = torch.ones(()) if skipped is None else (self._skipped() == skipped).float()
        live = live * awake(self.param_groups, live.device, live.dtype)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self._state_of(parameter)
                counted = live.to(parameter.device)
                state["lookahead_step"] = state["lookahead_step"].to(parameter.device) + counted
                due = (state["lookahead_step"] % self.k == 0).to(parameter.dtype) * counted.to(parameter.dtype)
                state["slow"].lerp_(parameter, due * self.alpha)
                parameter.lerp_(state["slow"], due)
        return loss

    def _skipped(self) -> Any:
        """The inner optimizer's count of skipped steps, if it keeps one: a skipped step is none for us either."""
        return getattr(self.optimizer, "skipped_steps", None)
