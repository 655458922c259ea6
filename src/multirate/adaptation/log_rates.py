"""Log-rates with a trace: positive, scale-free, with a long horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, log

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
from multirate.adaptation.steps import HyperStep, Plain
from multirate.levels import Values
from multirate.memory import Memory, Slot, settle_values
from multirate.rules.base import in_range

_LARGEST_LOG = 40.0


@dataclass(frozen=True)
class LogRates(Adaptation):
    r"""A product of levels, ``α* = lr · exp(Σᵢ sᵢ)``, each log-rate moved by a cosine.

    With the trace ``e_t = ρ e_{t-1} + d_t`` of past directions and, per node,
    ``c = ⟨g_t, e_{t-1}⟩ / (‖g_t‖ ‖e_{t-1}‖)`` in [−1, 1]:  ``sᵢ ← sᵢ + κᵢ cᵢ``. Rates are positive by construction
    and a step
    changes a rate by a factor of at most ``exp(Σ κᵢ)``.

    Args:
        hyper_lr: κ, one number or one per level.
        trace: Horizon ρ in [0, 1]; 0 is the one-step horizon of the paper and needs no buffer, else the trace is one
            buffer per parameter element.
        step: The step on a log-rate, see :mod:`multirate.adaptation.steps`.
        bounds: Smallest and largest applied rate.
    """

    needs_norms = True

    hyper_lr: float | Mapping[str, float] = 0.1
    trace: float = 0.999
    step: HyperStep = field(default_factory=Plain)
    bounds: tuple[float, float] = (0.0, inf)

    @property
    def horizon(self) -> float:  # type: ignore[override]
        """ρ, the decay of the trace of directions."""
        return self.trace

    def for_levels(self, levels: Sequence[str], given: Sequence[str]) -> Adaptation:
        check_bounds(self.bounds)
        in_range("trace", self.trace, low=0.0, high=1.0)
        return replace(self, hyper_lr=per_level("hyper_lr", self.hyper_lr, levels))

    def slots(self, levels: Sequence[str], lr: float) -> list[Slot]:
        return [
            *(Slot(f"log_rate.{level}", level) for level in levels),
            *(slot for level in levels for slot in self.step.slots(level)),
            *agreement_slots(levels),
        ]

    def level_rates(self, memory: Memory, level: str, lr: float) -> Values:
        """The product of all levels down to this one."""
        total = summed_down(memory, level, lambda coarser: memory[f"log_rate.{coarser}"])
        return (total.clamp(-_LARGEST_LOG, _LARGEST_LOG).exp() * lr).clamp(*self.bounds)

    def combined(self, memory: Memory, lr: float) -> Values:
        return self.level_rates(memory, memory.tree.finest, lr)

    def update(self, memory: Memory, measured: Measurement, lr: float) -> Values:
        assert isinstance(self.hyper_lr, Mapping)
        low, high = self.bounds
        # The coarsest log-rate stops at the bounds of the applied rate, so that it does not wind up beyond them.
        lowest = log(low / lr) if low > 0 else -_LARGEST_LOG
        highest = log(high / lr) if 0 < high < inf else _LARGEST_LOG
        cosines = {level: cosine(measured, level) for level in memory.tree.levels}
        for level, agreement in cosines.items():
            known = measured.known(level)
            logs = memory[f"log_rate.{level}"]
            moved = logs + self.step(memory, level, agreement, known) * self.hyper_lr[level]
            first = level == memory.tree.levels[0]
            limits = (lowest, highest) if first else (-_LARGEST_LOG, _LARGEST_LOG)
            settle_values(logs, moved.clamp(*limits), known)
        note_agreement(memory, measured, cosines)
        return self.combined(memory, lr)
