"""The step on a rate: what becomes of a hypergradient before its step size multiplies it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from multirate.levels import Values
from multirate.memory import Memory, Slot, settle_values
from multirate.rules.base import in_range


@dataclass(frozen=True)
class HyperStep(ABC):
    """Turns the hypergradients of a level into steps, remembering what it needs per node."""

    def slots(self, level: str) -> list[Slot]:
        """What to remember for each node of a level."""
        return []

    @abstractmethod
    def __call__(self, memory: Memory, level: str, hypergradient: Values, known: Values) -> Values:
        """The steps; nodes of which nothing is known keep their memory."""


@dataclass(frozen=True)
class Plain(HyperStep):
    """The hypergradient itself."""

    def __call__(self, memory: Memory, level: str, hypergradient: Values, known: Values) -> Values:
        return hypergradient


@dataclass(frozen=True)
class Sign(HyperStep):
    """The sign of the hypergradient."""

    def __call__(self, memory: Memory, level: str, hypergradient: Values, known: Values) -> Values:
        return hypergradient.sign()


@dataclass(frozen=True)
class Momentum(HyperStep):
    """Heavy ball: ``b ← μ b + h``, step ``b``."""

    momentum: float = 0.9

    def __post_init__(self) -> None:
        in_range("momentum", self.momentum, low=0.0, below=1.0)

    def slots(self, level: str) -> list[Slot]:
        return [Slot(f"step_momentum.{level}", level)]

    def __call__(self, memory: Memory, level: str, hypergradient: Values, known: Values) -> Values:
        buffer = memory[f"step_momentum.{level}"]
        settle_values(buffer, buffer * self.momentum + hypergradient, known)
        steps: Values = buffer * 1.0
        return steps


@dataclass(frozen=True)
class AdamStep(HyperStep):
    """Adam on the hypergradient, bias-corrected by each node's own count of steps."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for beta in self.betas:
            in_range("betas", beta, low=0.0, below=1.0)
        in_range("eps", self.eps, low=0.0)

    def slots(self, level: str) -> list[Slot]:
        return [Slot(f"step_{name}.{level}", level) for name in ("mean", "square", "mean_total", "square_total")]

    def __call__(self, memory: Memory, level: str, hypergradient: Values, known: Values) -> Values:
        averages = []
        for name, beta, value in (
            ("mean", self.betas[0], hypergradient),
            ("square", self.betas[1], hypergradient * hypergradient),
        ):
            average, total = memory[f"step_{name}.{level}"], memory[f"step_{name}_total.{level}"]
            settle_values(average, average * beta + value * (1.0 - beta), known)
            # The total of the average's weights is its bias correction: 1 − βᵗ for the t steps a node has seen.
            settle_values(total, total * beta + (1.0 - beta), known)
            averages.append(average / total.clamp(1e-30, 1.0))
        mean, square = averages
        steps: Values = mean / (square.sqrt() + (self.eps or 1e-30))
        return steps
