"""Regularised rates (Eqs. 9-30 and Theorem 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from multirate.adaptation.base import (
    Adaptation,
    FinestRates,
    Measurement,
    check_bounds,
    check_reduction,
    move,
    note_agreement,
    per_level,
)
from multirate.adaptation.steps import HyperStep, Plain
from multirate.levels import Values
from multirate.memory import Memory
from multirate.rules.base import in_range

_FORMS = ("exact", "virtual", "last_step")


@dataclass(frozen=True)
class Regularized(FinestRates):
    r"""Rates of every level, each pulled towards those of its ancestors.

    The penalty is ``Σ λᵢⱼ (αᵢ − αⱼ)²`` along every path of the tree plus ``λ_ts (α_t − α_{t-1})²`` on the coarsest
    level.
    With the unpenalised ("virtual") rate ``α̂ = α_{t-1} + β H``:

    * ``"exact"``: ``α = (α̂ + 2β Σⱼ λⱼ αⱼ) / (1 + 2β Σⱼ λⱼ)``, ancestors first;
    * ``"virtual"``: ``α = (1 − 2β Σⱼ λⱼ) α̂ + 2β Σⱼ λⱼ α̂ⱼ``, a combination with weights ``γⱼ = 2βλⱼ`` (Theorem 1);
    * ``"last_step"``: ``α = α̂ − 2β Σⱼ λⱼ (α_{t-1} − α_{j,t-1})``.

    The applied rate is that of the finest level.

    Args:
        penalty: λ: one number for every pair of levels, or a mapping from ``(finer, coarser)`` to a number (pairs left
            out are not tied). At least 0.
        time_penalty: λ_ts ≥ 0, for the exact and virtual forms.
        form: ``"exact"``, ``"virtual"`` or ``"last_step"``.
        hyper_lr: β, one number or one per level.
        reduction: ``"sum"`` or ``"mean"`` over a node.
        step: The step on a rate, see :mod:`multirate.adaptation.steps`.
        bounds: Smallest and largest rate.
    """

    penalty: float | Mapping[tuple[str, str], float] = 1.0
    time_penalty: float = 0.0
    form: str = "exact"
    hyper_lr: float | Mapping[str, float] = 1e-8
    reduction: str = "sum"
    step: HyperStep = field(default_factory=Plain)
    bounds: tuple[float, float] = (0.0, inf)

    def for_levels(self, levels: Sequence[str], given: Sequence[str]) -> Adaptation:
        check_reduction(self.reduction)
        check_bounds(self.bounds)
        in_range("time_penalty", self.time_penalty, low=0.0)
        if self.form not in _FORMS:
            raise ValueError(f"form: {self.form!r} is unknown; use one of {', '.join(_FORMS)}")
        if self.form == "last_step" and self.time_penalty:
            raise ValueError(
                f"time_penalty: {self.time_penalty!r} has no effect with form='last_step', where its gradient is 0; "
                "use form='exact' or 'virtual', or time_penalty=0"
            )
        resolved = replace(self, penalty=self._pairs(levels), hyper_lr=per_level("hyper_lr", self.hyper_lr, levels))
        if self.form == "virtual":
            for level in levels:
                total = sum(resolved._pulls(level, levels).values()) + resolved._time_pull(level, levels)
                if total >= 1.0:
                    raise ValueError(
                        f"penalty: 2βΣλ is {total:g} at level {level!r}, but the virtual form needs it below 1; "
                        "lower penalty or hyper_lr, or use form='exact'"
                    )
        return resolved

    def _pairs(self, levels: Sequence[str]) -> dict[tuple[str, str], float]:
        pairs = [(fine, coarse) for i, fine in enumerate(levels) for coarse in levels[:i]]
        given = self.penalty if isinstance(self.penalty, Mapping) else dict.fromkeys(pairs, self.penalty)
        for pair, value in given.items():
            if pair not in pairs:
                raise ValueError(
                    f"penalty: {pair!r} is not a pair (finer, coarser) of the levels; the pairs are {pairs}"
                )
            in_range(f"penalty[{pair}]", value, low=0.0)
        return {pair: float(value) for pair, value in given.items()}

    def _pulls(self, level: str, levels: Sequence[str]) -> dict[str, float]:
        """``2βλⱼ`` for each ancestor level."""
        assert isinstance(self.hyper_lr, Mapping)
        assert isinstance(self.penalty, Mapping)
        coarser = levels[: list(levels).index(level)]
        return {j: 2.0 * self.hyper_lr[level] * self.penalty.get((level, j), 0.0) for j in coarser}

    def _time_pull(self, level: str, levels: Sequence[str]) -> float:
        assert isinstance(self.hyper_lr, Mapping)
        return 2.0 * self.hyper_lr[level] * self.time_penalty if level == levels[0] else 0.0

    def update(self, memory: Memory, measured: Measurement, lr: float) -> Values:
        assert isinstance(self.hyper_lr, Mapping)
        tree = memory.tree
        old: dict[str, Values] = {level: memory[f"rate.{level}"] * 1.0 for level in tree.levels}
        virtual: dict[str, Values] = {}
        for level in tree.levels:
            hypergradient = measured.hypergradient(level, self.reduction)
            step = self.step(memory, level, hypergradient, measured.known(level))
            virtual[level] = old[level] + step * self.hyper_lr[level]
        for level in tree.levels:
            move(memory, measured, level, self._pulled(memory, level, old, virtual), self.bounds)
        note_agreement(
            memory, measured, {level: measured.hypergradient(level, self.reduction) for level in tree.levels}
        )
        return self.combined(memory, lr)

    def _pulled(self, memory: Memory, level: str, old: Mapping[str, Values], virtual: Mapping[str, Values]) -> Values:
        """The rate of a level under its penalty, its ancestors being done."""
        tree = memory.tree
        pulls, time_pull = self._pulls(level, tree.levels), self._time_pull(level, tree.levels)
        total = sum(pulls.values()) + time_pull
        rate = virtual[level] * (1.0 - total if self.form == "virtual" else 1.0)
        if time_pull:
            rate = rate + old[level] * time_pull
        for ancestor, pull in pulls.items():
            if self.form == "exact":
                target: Values = memory[f"rate.{ancestor}"]
            else:
                target = virtual[ancestor] if self.form == "virtual" else old[ancestor]
            lifted = tree.lift(target, ancestor, level) * pull
            rate = rate + lifted if self.form != "last_step" else rate - (old[level] * pull - lifted)
        return rate / (1.0 + total) if self.form == "exact" else rate
