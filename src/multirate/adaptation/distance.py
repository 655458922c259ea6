"""Rates from the distance travelled, shared out level by level by a leaking hypergradient."""

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
    note_agreement,
    per_level,
    summed_down,
)
from multirate.adaptation.multiplicative import cosine
from multirate.levels import ELEMENT, Values
from multirate.memory import Memory, Slot, settle_values
from multirate.rules.base import in_range

_LOWEST_LOG = -2.5
_SIZE_POWER = 0.5
"""How far the steps of siblings go with the size of their parameters; 1 is in proportion."""


@dataclass(frozen=True)
class DistanceRates(Adaptation):
    r"""The rate that the distance travelled supports, times a factor for every level: ``α* = α_root · exp(Σᵢ sᵢ)``.

    At the coarsest level, with ``y`` the point where gradients are taken, ``y₀`` where it began and ``d`` the
    directions,

        ``α_root = γ · max_k ‖y_k − y₀‖ / √(Σ_k ‖d_k‖²)``.

    Steady progress raises it, standing still lets it sink; how a random walk with a constant rate stands between the
    two is what γ settles. At every level the hypergradient ``c = ⟨d_t, e_t⟩ / (‖d_t‖ ‖e_t‖)`` along
    ``e_t = x_t − z_t``, how far the iterate has come from its average, moves a log-rate that leaks towards 0:
    ``s ← (1 − ℓ) s + ℓ κ c``, which counts as far as it lowers, ``min(s, 0)``.

    Below the coarsest level the nodes of one parent share out its step among them, in proportion to
    ``fᵢ = √rᵢ exp(min(sᵢ, 0))`` with ``rᵢ`` the root mean square of node i's parameters (found as
    ``√((‖y₀‖² + ‖y − y₀‖²) / n)``), and so that the parent's own step keeps its length: the rate of i is that of its
    parent times

        ``mᵢ = fᵢ / √(Σⱼ qⱼ fⱼ² / Σⱼ qⱼ)``   with ``qⱼ = Σ_k ‖d_k‖²`` of node j, over the nodes of i's parent.

    Single elements only lower.

    Args:
        hyper_lr: κ, one number or one per level; 0 leaves the level at 1.
        gain: γ.
        leak: ℓ in (0, 1].
        bounds: Smallest and largest applied rate.

    Reference:
        The root: Ivgi, Hinder, Carmon, DoG is SGD's best friend, arXiv 2302.12022, Eq. 1, here in preconditioned
        coordinates and at the gradient's point of averaged iterates.
    """

    needs_norms = True

    hyper_lr: float | Mapping[str, float] = 1.0
    gain: float = 1.75
    leak: float = 0.02
    bounds: tuple[float, float] = (0.0, inf)

    def for_levels(self, levels: Sequence[str], given: Sequence[str]) -> DistanceRates:
        check_bounds(self.bounds)
        if not in_range("gain", self.gain, low=0.0) or not in_range("leak", self.leak, low=0.0, high=1.0):
            raise ValueError(
                f"gain, leak: {self.gain!r} and {self.leak!r} must be above 0; leave them at 1.75 and 0.02"
            )
        return replace(self, hyper_lr=per_level("hyper_lr", self.hyper_lr, levels))

    def slots(self, levels: Sequence[str], lr: float) -> list[Slot]:
        root = levels[0]
        return [
            Slot("size", root),
            Slot("first_rate", root, lr),
            Slot("distance", root),
            Slot("squares", root),
            *(Slot(f"log_rate.{level}", level) for level in levels),
            *(
                Slot(f"{name}.{level}", level)
                for level in self.sharing(levels)
                for name in ("squares", "size", "moved")
            ),
            *agreement_slots(levels),
        ]

    @staticmethod
    def sharing(levels: Sequence[str]) -> list[str]:
        """The levels whose nodes share out the step of their parent."""
        return [level for level in levels[1:] if level != ELEMENT]

    def root(self, memory: Memory) -> Tensor:
        """``α_root`` of every node of the coarsest level; the first rate as long as nothing has moved."""
        distance, squares = memory["distance"], memory["squares"]
        found = self.gain * distance / squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
        return torch.where(squares > 0, found, memory["first_rate"])

    def level_rates(self, memory: Memory, level: str, lr: float) -> Values:
        """The product of all levels down to this one."""
        total = summed_down(memory, level, lambda coarser: self._log_factors(memory, coarser))
        return (total.exp() * memory.tree.lift(self.root(memory), memory.tree.levels[0], level)).clamp(*self.bounds)

    def _log_factors(self, memory: Memory, level: str) -> Values:
        """What the nodes of a level multiply the rate of their parent by, as logarithms."""
        tree = memory.tree
        logs: Values = memory[f"log_rate.{level}"].clamp(_LOWEST_LOG, 0.0)
        if level not in self.sharing(tree.levels):
            return logs
        size = memory[f"size.{level}"] + memory[f"moved.{level}"]
        logs = logs + torch.where(size > 0, size, torch.ones_like(size)).log() * (0.5 * _SIZE_POWER)
        parent = tree.levels[tree.levels.index(level) - 1]
        squares = memory[f"squares.{level}"]
        pooled = tree.pool(torch.stack([squares * (2.0 * logs).exp(), squares]), level, parent)
        assert isinstance(pooled, Tensor)
        begun = pooled[1] > 0  # the first step has one rate for all
        length = torch.where(begun, pooled[0] / pooled[1], torch.ones_like(pooled[0])).sqrt()
        return (logs - tree.lift(length.log(), parent, level)) * tree.lift(begun.to(length.dtype), parent, level)

    def combined(self, memory: Memory, lr: float) -> Values:
        return self.level_rates(memory, memory.tree.finest, lr)

    def update(self, memory: Memory, measured: Measurement, lr: float) -> Values:
        """Takes in what the step just made measured; returns the rates of the next one."""
        self.learn(memory, measured, lr)
        return self.combined(memory, lr)

    def learn(self, memory: Memory, measured: Measurement, lr: float) -> None:
        """Takes in what the step just made measured."""
        assert isinstance(self.hyper_lr, Mapping)
        tree = memory.tree
        root = tree.levels[0]
        known = measured.known(root)
        squares = memory["squares"] + measured.gradient_squares[root]
        # The first rate stands for a distance, from which that travelled takes over.
        supposed = memory["first_rate"] * squares.sqrt() / self.gain * (memory["squares"] == 0)
        travelled = measured.distance_squares[root].sqrt()
        assert isinstance(travelled, Tensor)  # the coarsest level is never that of single elements
        settle_values(memory["distance"], torch.stack([memory["distance"], supposed, travelled]).amax(0), known)
        settle_values(memory["squares"], squares, known)
        # The first steps weigh alike, so that the average begins without a bias towards 0.
        leak = torch.clamp(1.0 / memory["time"][0].clamp(min=1.0), min=self.leak)
        cosines = {level: cosine(measured, level) for level in tree.levels}
        for level, agreement in cosines.items():
            logs = memory[f"log_rate.{level}"]
            target = agreement * self.hyper_lr[level]
            settle_values(logs, logs + (target - logs) * leak, measured.known(level))
        for level in self.sharing(tree.levels):
            seen, known = memory[f"squares.{level}"], measured.known(level)
            settle_values(seen, seen + measured.gradient_squares[level], known)
            counts = measured.counts[level].clamp(1.0, inf)
            settle_values(memory[f"moved.{level}"], measured.distance_squares[level] / counts, known)
        note_agreement(memory, measured, cosines)
