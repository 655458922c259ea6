"""What an adaptation is: how rates move and mix, given the hypergradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from multirate.adaptation.steps import HyperStep
from multirate.levels import ELEMENT, Values
from multirate.memory import Memory, Slot, settle_values
from multirate.tensorlist import TensorList


@dataclass
class Measurement:
    """What one step measured, per level.

    Attributes:
        sums: Agreement ``H_i``: for each node the sum of ``g_t ⊙ d_{t-1}`` (times the factor of the schedule the
            displacement was made with), so that ``−H_i`` is the derivative of the loss by the node's rate.
        counts: Number of elements each node's sum is over (0: the node did not move, nothing is known).
        gradient_squares: ``‖g_t‖²`` per node, when asked for.
        direction_squares: ``‖e_{t-1}‖²`` per node, when asked for.
        live: 1 when every gradient is finite, else 0 (0-d).
        distance_squares: ``‖y_t − y_0‖²`` per node, of averaged iterates.
        descents: ``⟨g_t, d_t⟩`` per node, of averaged iterates: what the step gains to first order, over α.
        returns: ``⟨g_t, y_0 − y_t⟩`` per node, of averaged iterates: what going the whole way once more would.
    """

    sums: dict[str, Values]
    counts: dict[str, Values]
    gradient_squares: dict[str, Values]
    direction_squares: dict[str, Values]
    live: Tensor
    distance_squares: dict[str, Values] = field(default_factory=dict)
    descents: dict[str, Values] = field(default_factory=dict)
    returns: dict[str, Values] = field(default_factory=dict)

    def hypergradient(self, level: str, reduction: str) -> Values:
        """Sum or mean of the agreement over each node of a level."""
        if reduction == "sum" or level == ELEMENT:
            return self.sums[level]
        return self.sums[level] / self.counts[level].clamp(1.0, inf)

    def known(self, level: str) -> Values:
        """1 for each node of which something was measured in this live step, else 0."""
        counts = self.counts[level]
        if isinstance(counts, TensorList):
            return counts.clamp(0.0, 1.0).mul(self.live)  # the operator breaks the graph of torch.compile
        return counts.clamp(0.0, 1.0).ceil() * self.live


@dataclass(frozen=True)
class Adaptation(ABC):
    """How rates move and mix. Rates are in absolute units, the factor of a schedule left out.

    Args:
        hyper_lr: Step size β of the rates: one number, or one per level by name.
        reduction: ``"sum"`` or ``"mean"`` of the agreement over a node.
        step: What becomes of a hypergradient before β multiplies it (default: itself).
        bounds: Smallest and largest rate, ``(0, inf)`` by default.
    """

    needs_norms: ClassVar[bool] = False
    horizon: ClassVar[float] = 0.0

    @abstractmethod
    def for_levels(self, levels: Sequence[str], given: Sequence[str]) -> Adaptation:
        """The adaptation with its options resolved and checked for these levels.

        Args:
            levels: Coarse to fine.
            given: The same levels in the order the user gave them.
        """

    @abstractmethod
    def slots(self, levels: Sequence[str], lr: float) -> list[Slot]:
        """The quantities to remember, started at the learning rate ``lr``."""

    @abstractmethod
    def combined(self, memory: Memory, lr: float) -> Values:
        """The rate of every node of the finest level, mixed from all levels."""

    @abstractmethod
    def update(self, memory: Memory, measured: Measurement, lr: float) -> Values:
        """Moves rates and weights by what was measured; returns the combined rates to apply in this step."""

    def learn(self, memory: Memory, measured: Measurement, lr: float) -> None:
        """Moves rates and weights by what was measured, after the step was made with those before."""
        self.update(memory, measured, lr)

    def level_rates(self, memory: Memory, level: str, lr: float) -> Values:
        """The rates of one level, for people to read."""
        values: Values = memory[f"rate.{level}"]
        return values

    def weights(self, memory: Memory) -> dict[str, Tensor]:
        """Combination weights by level; empty for an adaptation without any."""
        return {}


@dataclass(frozen=True)
class FinestRates(Adaptation):
    """An adaptation whose levels keep a rate each, of which that of the finest level is applied."""

    if TYPE_CHECKING:

        @property
        def step(self) -> HyperStep: ...

    def slots(self, levels: Sequence[str], lr: float) -> list[Slot]:
        return [
            *(Slot(f"rate.{level}", level, lr) for level in levels),
            *(slot for level in levels for slot in self.step.slots(level)),
            *agreement_slots(levels),
        ]

    def combined(self, memory: Memory, lr: float) -> Values:
        rates: Values = memory[f"rate.{memory.tree.finest}"]
        return rates


def summed_down(memory: Memory, level: str, values: Callable[[str], Values]) -> Values:
    """The sum of a quantity over a level and all coarser ones, for every node of that level."""
    tree = memory.tree
    total: Values | None = None
    for coarser in reversed(tree.levels[: tree.levels.index(level) + 1]):
        share = tree.lift(values(coarser), coarser, level)
        total = share if total is None else total + share
    assert total is not None
    return total


def per_level(
    name: str, value: float | Mapping[str, float], levels: Sequence[str], low: float = 0.0
) -> dict[str, float]:
    """One number a level from one number or a mapping; raises ``ValueError`` for a wrong name or value."""
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in levels]
        missing = [level for level in levels if level not in value]
        if unknown or missing:
            wrong = f"unknown level {unknown[0]!r}" if unknown else f"no value for level {missing[0]!r}"
            raise ValueError(f"{name}: {wrong}; give one number for each of {', '.join(levels)}")
        numbers = {level: value[level] for level in levels}
    else:
        numbers = dict.fromkeys(levels, value)
    for level, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not isfinite(number) or number < low:
            raise ValueError(f"{name}: {number!r} (level {level!r}) must be a finite number of at least {low}")
    return {level: float(number) for level, number in numbers.items()}


def check_reduction(reduction: str) -> None:
    """Raises ``ValueError`` unless the reduction is a known one."""
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction: {reduction!r} is unknown; use 'sum' or 'mean'")


def check_bounds(bounds: tuple[float, float]) -> None:
    """Raises ``ValueError`` unless ``0 ≤ low ≤ high``."""
    low, high = bounds
    if not (0.0 <= low <= high) or not isfinite(low):
        raise ValueError(f"bounds: {bounds!r} must be (low, high) with 0 <= low <= high")


def move(memory: Memory, measured: Measurement, level: str, new: Values, bounds: tuple[float, float]) -> None:
    """Stores a level's new rates, within bounds, for the nodes something is known of."""
    settle_values(memory[f"rate.{level}"], new.clamp(*bounds), measured.known(level))


def note_agreement(memory: Memory, measured: Measurement, values: Mapping[str, Values]) -> None:
    """Remembers the last agreement of each packed level, for people to read."""
    for level, agreement in values.items():
        if level != ELEMENT:
            settle_values(memory[f"agreement.{level}"], agreement, measured.known(level))


def agreement_slots(levels: Sequence[str]) -> list[Slot]:
    """Slots for the last agreement; the parameter level keeps none, it would be a copy of the model."""
    return [Slot(f"agreement.{level}", level) for level in levels if level != ELEMENT]
