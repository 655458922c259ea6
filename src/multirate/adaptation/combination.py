"""Additive rates and their learned combination: Baydin's rule and CAM-HD (Algorithm 1, Eqs. 2, 8, 34)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isclose

import torch
from torch import Tensor

from multirate.adaptation.base import (
    Adaptation,
    Measurement,
    agreement_slots,
    check_bounds,
    check_reduction,
    move,
    note_agreement,
    per_level,
)
from multirate.adaptation.steps import HyperStep, Plain
from multirate.levels import Values
from multirate.memory import MODEL, Memory, Slot, settle
from multirate.rules.base import in_range


@dataclass(frozen=True)
class CAMHD(Adaptation):
    r"""Combined adaptive multi-level hypergradient descent (Jie et al. 2022, Algorithm 1).

    Each level ``i`` keeps a rate a node, and the applied rate is ``α* = Σᵢ γᵢ αᵢ``. With the agreement ``Hᵢ`` of a
    node,

    * ``Gᵢ = Σₙ αᵢ[n] Hᵢ[n]``, taken with the rates as they were applied,
    * ``αᵢ ← αᵢ + βᵢ γᵢ Hᵢ``,
    * ``α* = Σᵢ γᵢ αᵢ`` with the weights as they were,
    * ``γ ← normalise(γ + δ G)``.

    Args:
        initial_weights: First combination weights, in the order of ``levels`` or by name; they sum to 1. ``None``:
        equal.
        hyper_lr: β, one number or one per level.
        weight_lr: δ; 0 keeps the weights fixed.
        normalization: ``"clip"``: ``max(γ, 0)/Σ max(γ, 0)``; ``"softmax"``: ``γ = softmax(c)``, and ``c`` learns by
            its own gradient ``γᵢ (Gᵢ − Σⱼ γⱼ Gⱼ)``.
        weight_level: Level whose nodes have weights of their own: ``"global"`` (shared) or ``"layer"``, which then has
            to be one of the levels.
        reduction: ``"sum"`` or ``"mean"`` over a node.
        step: The step on a rate, see :mod:`multirate.adaptation.steps`.
        bounds: Smallest and largest rate of each level.
    """

    initial_weights: Sequence[float] | Mapping[str, float] | None = None
    hyper_lr: float | Mapping[str, float] = 1e-8
    weight_lr: float = 0.03
    normalization: str = "clip"
    weight_level: str = "global"
    reduction: str = "sum"
    step: HyperStep = field(default_factory=Plain)
    bounds: tuple[float, float] = (0.0, inf)

    def for_levels(self, levels: Sequence[str], given: Sequence[str]) -> Adaptation:
        check_reduction(self.reduction)
        check_bounds(self.bounds)
        in_range("weight_lr", self.weight_lr, low=0.0)
        if self.normalization not in ("clip", "softmax"):
            raise ValueError(f"normalization: {self.normalization!r} is unknown; use 'clip' or 'softmax'")
        if self.weight_level not in levels and self.weight_level != "global":
            raise ValueError(
                f"weight_level: {self.weight_level!r} is not one of the levels {tuple(given)}; add it, or use 'global'"
            )
        if self.weight_level == "parameter":
            raise ValueError("weight_level: 'parameter' is too fine; use 'global' or 'layer'")
        return replace(
            self,
            initial_weights=_weights(self.initial_weights, given),
            hyper_lr=per_level("hyper_lr", self.hyper_lr, levels),
        )

    def _weight_slot(self, levels: Sequence[str]) -> str:
        return self.weight_level if self.weight_level in levels else MODEL

    def slots(self, levels: Sequence[str], lr: float) -> list[Slot]:
        assert isinstance(self.initial_weights, Mapping)
        where = self._weight_slot(levels)
        slots = []
        for level in levels:
            start = self.initial_weights[level]
            if self.normalization == "softmax":
                start = float(torch.tensor(start, dtype=torch.float64).clamp(min=1e-30).log())
            slots += [
                Slot(f"rate.{level}", level, lr),
                Slot(f"weight.{level}", where, start),
                *self.step.slots(level),
            ]
        return [*slots, *agreement_slots(levels)]

    def _gammas(self, memory: Memory) -> dict[str, Tensor]:
        """The weights γᵢ, each over the nodes of the weight level."""
        raw = {level: memory[f"weight.{level}"] for level in memory.tree.levels}
        if self.normalization == "clip":
            return raw
        shares = torch.softmax(torch.stack(list(raw.values())), dim=0)
        return dict(zip(raw, shares.unbind(), strict=True))

    def _at(self, memory: Memory, values: Tensor, level: str) -> Values:
        """Weights at a level: shared ones broadcast, others are handed down."""
        if values.numel() == 1:
            return values.reshape(())
        return memory.tree.lift(values, self.weight_level, level)

    def weights(self, memory: Memory) -> dict[str, Tensor]:
        return self._gammas(memory)

    def combined(self, memory: Memory, lr: float) -> Values:
        return self._mix(memory, self._gammas(memory))

    def _mix(self, memory: Memory, gammas: Mapping[str, Tensor]) -> Values:
        tree = memory.tree
        mixed: Values | None = None
        for level in reversed(tree.levels):
            meet = self._meet(memory, level)
            rates = tree.lift(memory[f"rate.{level}"], level, meet) * self._at(memory, gammas[level], meet)
            share = tree.lift(rates, meet, tree.finest)
            mixed = share if mixed is None else mixed + share
        assert mixed is not None
        return mixed

    def _meet(self, memory: Memory, level: str) -> str:
        """The finer of a level and the level of the weights."""
        if self.weight_level not in memory.tree.levels:
            return level
        return memory.tree.finer(level, self.weight_level)

    def update(self, memory: Memory, measured: Measurement, lr: float) -> Values:
        assert isinstance(self.hyper_lr, Mapping)
        tree, gammas = memory.tree, self._gammas(memory)
        gains: dict[str, Tensor] = {}
        moves: dict[str, Values] = {}
        for level in tree.levels:
            meet = self._meet(memory, level)
            agreement = measured.hypergradient(level, self.reduction) if meet == level else measured.sums[meet]
            if meet != level and self.reduction == "mean":
                agreement = agreement / tree.lift(measured.counts[level].clamp(1.0, inf), level, meet)
            if self.weight_lr:
                gains[level] = self._gain(memory, tree.lift(memory[f"rate.{level}"], level, meet) * agreement, meet)
            hypergradient = tree.pool(agreement * self._at(memory, gammas[level], meet), meet, level)
            step = self.step(memory, level, hypergradient, measured.known(level))
            moves[level] = memory[f"rate.{level}"] + step * self.hyper_lr[level]
        for level in tree.levels:
            move(memory, measured, level, moves[level], self.bounds)
        rates = self._mix(memory, gammas)
        if self.weight_lr:
            self._update_weights(memory, gammas, gains, measured)
        note_agreement(
            memory, measured, {level: measured.hypergradient(level, self.reduction) for level in tree.levels}
        )
        return rates

    def _gain(self, memory: Memory, products: Values, level: str) -> Tensor:
        """``Gᵢ``: the products ``α H`` of a level summed over each node of the weight level."""
        tree = memory.tree
        if self.weight_level in tree.levels:
            pooled = tree.pool(products, level, self.weight_level)
        else:
            cells = tree.to_cells(products) if not isinstance(products, Tensor) else products
            pooled = cells.sum().reshape(1)
        assert isinstance(pooled, Tensor)
        return pooled

    def _update_weights(
        self, memory: Memory, gammas: Mapping[str, Tensor], gains: Mapping[str, Tensor], measured: Measurement
    ) -> None:
        gamma, gain = torch.stack(list(gammas.values())), torch.stack(list(gains.values()))
        if self.normalization == "clip":
            raised = (gamma + self.weight_lr * gain).clamp(min=0.0)
            total = raised.sum(dim=0)
            new = raised / total
            # Weights that all fell to zero, or overflowed, say nothing about the mix: keep it.
            usable = (total > 0) & torch.isfinite(new).all(dim=0)
        else:
            logits = torch.stack([memory[f"weight.{level}"] for level in gammas])
            new = logits + self.weight_lr * gamma * (gain - (gamma * gain).sum(dim=0))
            usable = torch.isfinite(new).all(dim=0)
        for level, row in zip(gammas, new.unbind(), strict=True):
            settle(memory[f"weight.{level}"], row, usable * measured.live)


@dataclass(frozen=True)
class Additive(CAMHD):
    """Baydin et al. 2018: ``α ← α + β H``; over several levels, with fixed equal weights."""

    weight_lr: float = 0.0


def _weights(weights: Sequence[float] | Mapping[str, float] | None, given: Sequence[str]) -> dict[str, float]:
    """First weights by level, checked."""
    if weights is None:
        return dict.fromkeys(given, 1.0 / len(given))
    if not isinstance(weights, Mapping):
        if len(weights) != len(given):
            raise ValueError(
                f"weights: {tuple(weights)!r} has {len(weights)} numbers for the {len(given)} levels {tuple(given)}; "
                "give one weight a level, in the same order"
            )
        weights = dict(zip(given, weights, strict=True))
    checked = per_level("weights", weights, list(given))
    if not isclose(sum(checked.values()), 1.0, abs_tol=1e-6):
        raise ValueError(
            f"weights: {tuple(checked.values())!r} sum to {sum(checked.values()):g}; combination weights sum to 1"
        )
    return checked
