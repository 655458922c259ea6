"""Rates by the hypergradient of the distance travelled, within what that distance supports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from multirate.adaptation.base import (
    Adaptation,
    Measurement,
    agreement_slots,
    check_bounds,
    per_level,
)
from multirate.adaptation.multiplicative import cosine
from multirate.levels import ELEMENT, Values
from multirate.memory import Memory, Slot
from multirate.rules.base import in_range

_ROOT_HYPER_LR = 20.0
_FINER_HYPER_LR = 3.0
_LOWEST_LOG = -2.5
_PART_REMEMBERED = 1 / 8
"""Share of all steps so far that hypergradients are averaged over."""
_LARGEST_HYPERGRADIENT = 0.1
"""What a hypergradient counts for at most: with more, the distance itself is about to raise the rate."""
_LARGEST_CHANGE = 0.15
"""Of the logarithm of a rate, in one step."""
_LARGEST_GROWTH = 2.0
"""Of a rate in one step, whatever the distance supports."""


@dataclass(frozen=True)
class DistanceRates(Adaptation):
    r"""The rate at which the distance travelled is the right one, times a factor for every finer level.

    With ``y`` the point where gradients ``g`` are taken, ``y₀`` where it began and ``α d`` the steps as they are made
    (by finer levels but for rates of single elements, ``bounds``, transition and schedule), a rate that had been larger
    all along would have taken ``y`` further along ``y − y₀``. How the loss would have changed is the hypergradient of
    the coarsest level, here over what one step gains to first order, both averaged over the last eighth of all steps:

        ``h = ⟨g, y₀ − y⟩ / (α ⟨g, d⟩)``,   ``log α_{t+1} = log α_t + (κ / t) · max(−0.1, min(h, 0.1))``,

    held between 1 and γ times what the distance supports, ``max_k ‖y_k − y₀‖ / √(Σ_k ‖d_k‖²)``. In noise alone the
    latter is the rate that a random walk is made with; steady progress raises it, standing still lets it sink. No rate
    more than doubles in a step.

    At every finer level the agreement ``c = ⟨d_t, e_t⟩ / (‖d_t‖ ‖e_t‖)`` along ``e_t = x_t − z_t``, how far the iterate
    has come from its average, moves a log-rate that leaks towards 0: ``s ← (1 − ℓ) s + ℓ κ c``. It counts as far as it
    lowers: the rate of a node is that of its parent times ``exp(max(−2.5, min(s, 0)))``.

    Args:
        hyper_lr: κ, one per level (default: 20 at the coarsest level, 3 at finer ones): a speed at the coarsest level,
            a strength at finer ones, so that one number for all seldom suits both. 0 leaves the coarsest level at its
            first rate, as far as the distance allows, and a finer one at 1.
        gain: γ, at least 1.
        leak: ℓ in (0, 1].
        bounds: Smallest and largest rate, of the coarsest level before factors of finer ones, and as applied.

    Reference:
        The bounds: Ivgi, Hinder, Carmon, DoG is SGD's best friend, arXiv 2302.12022, Eq. 1, here in preconditioned
        coordinates and at the gradient's point of averaged iterates.
    """

    needs_norms = True

    hyper_lr: float | Mapping[str, float] | None = None
    gain: float = 2.2
    leak: float = 0.02
    bounds: tuple[float, float] = (0.0, inf)

    def for_levels(self, levels: Sequence[str], given: Sequence[str]) -> DistanceRates:
        check_bounds(self.bounds)
        in_range("gain", self.gain, low=1.0)
        if not in_range("leak", self.leak, low=0.0, high=1.0):
            raise ValueError(f"leak: {self.leak!r} must be above 0; leave it at 0.02")
        hyper_lr = self.hyper_lr
        if hyper_lr is None:
            hyper_lr = {level: _FINER_HYPER_LR if level in levels[1:] else _ROOT_HYPER_LR for level in levels}
        return replace(self, hyper_lr=per_level("hyper_lr", hyper_lr, levels))

    def slots(self, levels: Sequence[str], lr: float) -> list[Slot]:
        root = levels[0]
        return [
            Slot("size", root),
            Slot("first_rate", root, lr),
            Slot(f"rate.{root}", root, lr),
            Slot("steps", root),
            Slot("distance", root),
            Slot("squares", root),
            Slot("gained", root),
            Slot("returned", root),
            *(Slot(f"log_rate.{level}", level) for level in levels[1:]),
            *agreement_slots(levels),
        ]

    def root(self, memory: Memory) -> Tensor:
        """``α`` of every node of the coarsest level, within ``bounds``; the first rate as long as nothing has moved."""
        rate = memory[f"rate.{memory.tree.levels[0]}"]
        return torch.where(memory["squares"] > 0, rate, memory["first_rate"]).clamp(*self.bounds)

    def level_rates(self, memory: Memory, level: str, lr: float) -> Values:
        """The product of all levels down to this one."""
        tree = memory.tree
        parent = tree.levels[0]
        rates: Values = self.root(memory)
        for finer in tree.levels[1 : tree.levels.index(level) + 1]:
            factor: Values = memory[f"log_rate.{finer}"].clamp(_LOWEST_LOG, 0.0).exp()
            rates, parent = tree.lift(rates, parent, finer) * factor, finer
        return rates.clamp(*self.bounds)

    def combined(self, memory: Memory, lr: float) -> Values:
        return self.level_rates(memory, memory.tree.finest, lr)

    def update(self, memory: Memory, measured: Measurement, lr: float) -> Values:
        """Takes in what the step just made measured; returns the rates of the next one."""
        self.learn(memory, measured, lr)
        return self.combined(memory, lr)

    def learn(self, memory: Memory, measured: Measurement, lr: float) -> None:
        """Takes in what the step just made measured."""
        assert isinstance(self.hyper_lr, Mapping)
        levels = memory.tree.levels
        self._learn_root(memory, measured, levels[0], self.hyper_lr[levels[0]])
        # The first steps weigh alike, so that the average begins without a bias towards 0.
        leak = torch.clamp(1.0 / memory["time"][0].clamp(min=1.0), min=self.leak)
        for level in levels[1:]:
            agreement, logs = cosine(measured, level), memory[f"log_rate.{level}"]
            learned = {f"log_rate.{level}": logs + (agreement * self.hyper_lr[level] - logs) * leak}
            if level != ELEMENT:
                learned[f"agreement.{level}"] = agreement
            memory.settle(learned, measured.known(level))

    def _learn_root(self, memory: Memory, measured: Measurement, root: str, hyper_lr: float) -> None:
        """Moves the rates of the coarsest level by their hypergradients."""
        rate, seen = self.root(memory), memory["squares"]
        tiny = torch.finfo(seen.dtype).tiny
        squares = seen + measured.gradient_squares[root]
        # Steps count from the first that moved anything, or a branch whose gradients begin at 0 would miss its start.
        steps = memory["steps"] + (squares > 0).to(seen.dtype)
        time = steps.clamp(min=1.0)
        # The first rate stands for a distance, from which that travelled takes over.
        supposed = rate * squares.sqrt() * (seen == 0)
        sums = [by_level[root] for by_level in (measured.distance_squares, measured.descents, measured.returns)]
        # The coarsest level is never that of single elements.
        travelled, descent, back = [values for values in sums if isinstance(values, Tensor)]
        distance = torch.stack([memory["distance"], supposed, travelled.sqrt()]).amax(0)
        newest = (1.0 / (_PART_REMEMBERED * time)).clamp(max=1.0)
        gained = torch.lerp(memory["gained"], rate * descent, newest)
        returned = torch.lerp(memory["returned"], back, newest)
        hypergradient = (returned / gained.clamp(min=tiny)).clamp(-_LARGEST_HYPERGRADIENT, _LARGEST_HYPERGRADIENT)
        change = (hypergradient * (hyper_lr / time)).clamp(-_LARGEST_CHANGE, _LARGEST_CHANGE)
        supported = distance / squares.clamp(min=tiny).sqrt()
        highest = torch.where(seen > 0, rate * _LARGEST_GROWTH, inf)
        rate = torch.minimum(torch.maximum(rate * change.exp(), supported), self.gain * supported).minimum(highest)
        learned: dict[str, Values] = {
            f"rate.{root}": rate,
            "steps": steps,
            "distance": distance,
            "squares": squares,
            "gained": gained,
            "returned": returned,
            f"agreement.{root}": hypergradient,
        }
        memory.settle(learned, measured.known(root))
