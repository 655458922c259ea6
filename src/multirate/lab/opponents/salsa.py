"""SALSA: a smoothed line search finds the learning rate, then SASA+ drops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import linregress

from multirate.lab.opponents.sasa import Batches, Move, SASAPlus, keep_latest


class SALSA(SASAPlus):
    """SALSA, statistical approximation with line search and statistical adaptation.

    It starts with a smoothed stochastic line search (SSLS). On the batch of step k, with g_k and f including the L2
    penalty, η_k begins at `increase`·α_{k−1} and is multiplied by `decrease`, at most `most_trials` times, while

        f(x_k − η_k g_k) > f(x_k) − sufficient·η_k‖g_k‖²,

    then α_k = (1 − smoothing)·α_{k−1} + smoothing·η_k is the rate of the step x_{k+1} = x_k − α_k d_k. Every
    `test_every` steps a regression line is fitted to the latest fraction `keep` of the losses f(x_k); when its slope
    is not significantly negative, or when the test of SASA+ finds stationarity (which also drops the rate), the search
    ends for good and SASA+ goes on alone.

    Where the loss of a batch depends on the mode of the model, the closure should evaluate in the mode that the
    authors chose: evaluation mode.

    Args:
        params: Parameters, or pairs of name and parameter, or groups of them.
        lr: α before the first step; any small rate.
        smoothing: Weight of the newest line search (γ), in (0, 1]; the authors take √(1 / steps of an epoch).
        sufficient: Share of the decrease that the gradient promises which a trial must reach (c), in (0, 0.5).
        increase: Factor that each line search begins with, at least 1.
        decrease: Factor after each failed trial, in (0, 1).
        most_trials: Most trials of a line search.
        momentum: As in `SASAPlus`, like all that follow.
        nu: See there.
        weight_decay: See there.
        drop: See there.
        significance: See there; also that of the slope's test.
        keep: See there.
        minimum_samples: See there; also that of the losses.
        test_every: See there.
        batches: See there.
        halves: See there.

    Raises:
        ValueError: An option is out of its range, or `step` got no closure.

    Reference: Zhang, Lang, Liu & Xiao 2020, arXiv 2002.10597 (SSLS and SALSA).
    """

    needs: ClassVar[str] = "closure"

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        smoothing: float = 0.1,
        sufficient: float = 0.05,
        increase: float = 2.0,
        decrease: float = 0.5,
        most_trials: int = 2,
        momentum: float = 0.9,
        nu: float = 1.0,
        weight_decay: float = 0.0,
        drop: float = 0.1,
        significance: float = 0.05,
        keep: float = 0.125,
        minimum_samples: int = 1000,
        test_every: int = 100,
        batches: Batches = "overlapping",
        halves: bool = False,
    ) -> None:
        if not 0 < smoothing <= 1:
            raise ValueError(f"smoothing must be in (0, 1], got {smoothing}; use the root of 1 / steps of an epoch")
        if not 0 < sufficient < 0.5:
            raise ValueError(f"sufficient must be in (0, 0.5), got {sufficient}; use 0.05")
        if increase < 1:
            raise ValueError(f"increase must be at least 1, got {increase}; use 2")
        if not 0 < decrease < 1:
            raise ValueError(f"decrease must be in (0, 1), got {decrease}; use 0.5")
        if most_trials < 1:
            raise ValueError(f"most_trials must be at least 1, got {most_trials}; use 2")
        super().__init__(
            params,
            lr,
            momentum=momentum,
            nu=nu,
            weight_decay=weight_decay,
            drop=drop,
            significance=significance,
            keep=keep,
            minimum_samples=minimum_samples,
            test_every=test_every,
            batches=batches,
            halves=halves,
        )
        self.param_groups[0].update(
            smoothing=smoothing,
            sufficient=sufficient,
            increase=increase,
            decrease=decrease,
            most_trials=most_trials,
            searching=True,
            losses=[],
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> float:  # type: ignore[override]
        """Search while the warm-up lasts, move, and test.

        Args:
            closure: Returns the loss of the batch, whose gradients are there already, at the present parameters.

        Returns:
            The loss before the step while the search lasts, else NaN (it is then not evaluated).
        """
        if closure is None:
            raise ValueError("closure must be given, got None; SALSA searches along the loss of the batch")
        shared = self.param_groups[0]
        moves = self._moves()
        loss = float("nan")
        flat = False
        if shared["searching"] and moves:
            loss, penalised = self._search(closure, moves)
            keep_latest(shared["losses"], penalised, shared["keep"], shared["steps"] + 1)
        stationary = self._move_and_test(moves)
        if shared["searching"] and self._test_due(shared["losses"]):
            times = np.arange(len(shared["losses"]))
            slope = linregress(times, shared["losses"], alternative="less")
            flat = not slope.pvalue < shared["significance"]
        if stationary or flat:
            shared["searching"] = False
            shared["losses"].clear()
        return loss

    def _search(self, closure: Callable[[], Any], moves: list[Move]) -> tuple[float, float]:
        """Set the factor from one line search; return the loss before it, without and with the penalty."""
        shared = self.param_groups[0]
        loss = float(closure())
        start = loss + self._penalty()
        saved = [parameter.clone() for parameter, _, _, _ in moves]
        # Rates are `lr` times a common factor; so is the decrease that the gradient promises.
        promised = float(sum(lr * gradient.square().sum() for _, gradient, _, lr in moves))
        factor = self.factor * shared["increase"]
        for _ in range(shared["most_trials"]):
            for (parameter, gradient, _, lr), origin in zip(moves, saved, strict=True):
                parameter.copy_(origin).sub_(gradient, alpha=lr * factor)
            trial = float(closure()) + self._penalty()
            if trial <= start - shared["sufficient"] * factor * promised:
                break
            factor *= shared["decrease"]
        for (parameter, _, _, _), origin in zip(moves, saved, strict=True):
            parameter.copy_(origin)
        shared["factor"] = (1 - shared["smoothing"]) * shared["factor"] + shared["smoothing"] * factor
        return loss, start

    def _penalty(self) -> float:
        total = 0.0
        for group in self.param_groups:
            if group["weight_decay"] > 0:
                squares = sum(p.square().sum() for p in group["params"] if p.grad is not None)
                total += group["weight_decay"] / 2 * float(squares)
        return total
