"""SASA+: gradient descent with momentum that drops its learning rate when a test finds the training stationary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from multirate.lab.opponents.base import Opponent

Batches: TypeAlias = Literal["overlapping", "disjoint"]
# Parameter, penalised gradient, direction, and the learning rate of its group.
Move: TypeAlias = tuple[Tensor, Tensor, Tensor, float]


def confidence_interval(samples: Sequence[float], significance: float, batches: Batches) -> tuple[float, float]:
    """Return the confidence interval of the mean of a correlated sequence, by batch means.

    With b = ⌊√N⌋ and Ȳ_j the mean of the j-th batch of b consecutive samples, σ̂² is

        disjoint, ⌊N/b⌋ = m batches:  b / (m − 1) · Σ_j (Ȳ_j − μ̂)²,            m − 1 degrees of freedom
        overlapping, N − b + 1 batches:  N b / ((N − b)(N − b + 1)) · Σ_j (Ȳ_j − μ̂)²,   N − b degrees of freedom

    and the interval is μ̂ ± t_{1−significance/2} σ̂ / √N.

    Args:
        samples: The sequence, at least four numbers.
        significance: One minus the confidence.
        batches: Which batches.

    References: Lang, Xiao & Zhang 2019, arXiv 1909.09785 (batch means); Zhang et al. 2020, arXiv 2002.10597
    (SASA+); Flegal & Jones 2010 (overlapping batch means).
    """
    values = np.asarray(samples, dtype=np.float64)
    count = len(values)
    size = math.isqrt(count)
    mean = float(values.mean())
    if batches == "overlapping":
        means = np.lib.stride_tricks.sliding_window_view(values, size).mean(axis=1)
        scale = count * size / ((count - size) * (count - size + 1))
        freedom = count - size
    else:
        number = count // size
        means = values[: number * size].reshape(number, size).mean(axis=1)
        scale = size / (number - 1)
        freedom = number - 1
    deviation = math.sqrt(scale * float(((means - mean) ** 2).sum()))
    half = float(student.ppf(1 - significance / 2, freedom)) * deviation / math.sqrt(count)
    return mean - half, mean + half


class SASAPlus(Opponent):
    """SASA+, statistical adaptive stochastic approximation.

    Quasi-hyperbolic momentum on g_k = ∇f(x_k) + weight_decay·x_k, with a constant rate α:

        h_k = momentum·h_{k−1} + (1 − momentum)·g_k,  d_k = (1 − nu)·g_k + nu·h_k,  x_{k+1} = x_k − α d_k.

    At stationarity E‖x_{k+1}‖² = E‖x_k‖², hence the mean of

        Δ_k = ⟨x_k, d_k⟩ − (α/2)‖d_k‖²

    is zero. Every `test_every` steps, when the latest fraction `keep` of the samples since the last drop is more
    than `minimum_samples`, the rate is multiplied by `drop` if zero lies in their mean's confidence interval. As in
    the authors' code a drop also empties the momentum. The rate applied is `lr` times all drops, so a
    schedule on `lr` and the drops multiply.

    Args:
        params: Parameters, or pairs of name and parameter, or groups of them.
        lr: α_0. Momentum is averaged, not summed: 1.0 with momentum 0.9 moves like 0.1 of `torch.optim.SGD`.
        momentum: β in [0, 1).
        nu: ν in [0, 1]; 1 is heavy-ball momentum, `nu = momentum` Nesterov's.
        weight_decay: L2 penalty.
        drop: Factor on the rate at stationarity (τ), in (0, 1).
        significance: One minus the confidence of the test (δ), in (0, 1).
        keep: Fraction of the samples since the last drop that the test uses (θ), in (0, 1].
        minimum_samples: Samples that a test needs more than, at least four.
        test_every: Steps between tests.
        batches: Which batch means estimate the variance.
        halves: Whether, as in the authors' code, the means of the older and newer half of the samples must also agree
            in sign, and before the first drop each must lie within the interval's half width of zero: guards against Δ
            merely crossing zero.

    Raises:
        ValueError: An option is out of its range.

    Reference: Zhang, Lang, Liu & Xiao 2020, arXiv 2002.10597 (SASA+), after Lang, Xiao & Zhang 2019, arXiv 1909.09785.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        *,
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
        if lr <= 0:
            raise ValueError(f"lr must be positive, got {lr}; 1.0 suits momentum 0.9")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}; use 0.9")
        if not 0 <= nu <= 1:
            raise ValueError(f"nu must be in [0, 1], got {nu}; use 1 for plain momentum")
        if weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay}; use 0 for none")
        if not 0 < drop < 1:
            raise ValueError(f"drop must be in (0, 1), got {drop}; it multiplies the rate, use 0.1")
        if not 0 < significance < 1:
            raise ValueError(f"significance must be in (0, 1), got {significance}; use 0.05")
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be in (0, 1], got {keep}; use 0.125")
        if minimum_samples < 4:
            raise ValueError(f"minimum_samples must be at least 4, got {minimum_samples}; use 1000")
        if test_every < 1:
            raise ValueError(f"test_every must be at least 1, got {test_every}; use the steps of an epoch, or 100")
        if batches not in ("overlapping", "disjoint"):
            raise ValueError(f"batches must be 'overlapping' or 'disjoint', got {batches!r}; use 'overlapping'")
        super().__init__(params, {"lr": lr, "momentum": momentum, "nu": nu, "weight_decay": weight_decay})
        # Everything that the test needs lies in the first group: state_dict, pickle and deepcopy all keep groups.
        self.param_groups[0].update(
            drop=drop,
            significance=significance,
            keep=keep,
            minimum_samples=minimum_samples,
            test_every=test_every,
            batches=batches,
            halves=halves,
            steps=0,
            drops=0,
            factor=1.0,
            samples_seen=0,
            samples=[],
        )

    @property
    def factor(self) -> float:
        """What multiplies every group's `lr`."""
        return float(self.param_groups[0]["factor"])

    def _move(self, loss: Any) -> None:
        """Move once, and test once every `test_every` steps."""
        self._move_and_test(self._moves())

    def applied_rates(self) -> dict[str, Tensor]:
        """Return the rate in force for each parameter, by name (by position where none were given)."""
        rates: dict[str, Tensor] = {}
        for group in self.param_groups:
            names = group.get("param_names") or [str(len(rates) + i) for i in range(len(group["params"]))]
            rates.update({name: torch.tensor(group["lr"] * self.factor) for name in names})
        return rates

    def _moves(self) -> list[Move]:
        moves: list[Move] = []
        for parameter, own, group in self._with_gradients():
            gradient = own.add(parameter, alpha=group["weight_decay"])
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            average = state["momentum"]
            average.mul_(group["momentum"]).add_(gradient, alpha=1 - group["momentum"])
            direction = gradient.mul(1 - group["nu"]).add_(average, alpha=group["nu"])
            moves.append((parameter, gradient, direction, group["lr"]))
        return moves

    def _move_and_test(self, moves: list[Move]) -> bool:
        """Move along the directions and return whether the test, if one is due, found stationarity."""
        if not moves:
            return False
        parts = []
        for parameter, _, direction, lr in moves:
            rate = lr * self.factor
            parts.append((parameter * direction).sum() - rate / 2 * direction.square().sum())
            parameter.sub_(direction, alpha=rate)
        shared = self.param_groups[0]
        shared["steps"] += 1
        shared["samples_seen"] += 1
        keep_latest(shared["samples"], float(sum(parts)), shared["keep"], shared["samples_seen"])
        return self._test_due(shared["samples"]) and self._test()

    def _test_due(self, samples: list[float]) -> bool:
        shared = self.param_groups[0]
        return bool(len(samples) > shared["minimum_samples"] and shared["steps"] % shared["test_every"] == 0)

    def _test(self) -> bool:
        shared = self.param_groups[0]
        samples = shared["samples"]
        lower, upper = confidence_interval(samples, shared["significance"], shared["batches"])
        stationary = lower < 0 < upper
        if shared["halves"]:
            middle = len(samples) // 2
            older, newer = float(np.mean(samples[:middle])), float(np.mean(samples[middle:]))
            if shared["drops"] == 0:
                half = (upper - lower) / 2
                stationary = abs(older) < half and abs(newer) < half
            stationary = stationary and older * newer > 0
        if stationary:
            shared["factor"] *= shared["drop"]
            shared["drops"] += 1
            shared["samples_seen"] = 0
            samples.clear()
            for state in self.state.values():
                state["momentum"].zero_()
        return stationary


def keep_latest(samples: list[float], value: float, keep: float, seen: int) -> None:
    """Append a value, then keep only the latest ⌈keep · seen⌉ of all `seen` values so far."""
    samples.append(value)
    del samples[: max(0, len(samples) - math.ceil(keep * seen))]
