"""The tensors one kernel call works on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from multirate.levels import Tree
from multirate.levels.cells import Cells
from multirate.rules import Rule

DIRECTION = "previous_direction"
TRACE = "trace"
ITERATE = "iterate"
"""State of averaged iterates: the iterate itself, of which the parameter holds the average."""
ANCHOR = "anchor"
"""State of averaged iterates: where the parameter began."""
AVERAGE = "average"
"""State of averaged iterates: the average in full precision, where the parameter's own type is a short one."""
LARGEST_DECAY = 0.5
"""What decoupled weight decay takes from an element of averaged iterates, as a share of its step, at most."""

_T = TypeVar("_T")


@dataclass
class Batch:
    """Parameters of one group, type and device, with what belongs to them; complex numbers as pairs of reals.

    Attributes:
        rule: The rule that moves them.
        options: Options of their param group.
        start: Position of the group's first parameter among all parameters of the optimizer.
        index: Their positions among all parameters of the optimizer.
        cells: How each falls into cells.
        parameters: The parameters, to be changed in place.
        gradients: Their gradients, never changed.
        state: Elementwise state by name, each a list parallel to ``parameters``.
        steps: Number of steps each has taken, 0-d; the present one included once rates have moved.
        elementwise: Whether there is a rate per element.
        horizon: Decay ρ of the trace the gradient is compared with; 0 compares with the last direction.
        norms: Whether squared norms are measured too.
        complex_pairs: Whether the last dimension holds the two parts of complex numbers.
        at_training_point: Of averaged iterates: whether the parameters hold the point where gradients are taken, and
            not the average.
        interpolation: Of averaged iterates: the weight of the average in that point.
        rounds: Whether state is kept in bfloat16 (see :mod:`multirate.kernels.rounding`).
        seeds: What it is rounded with in this step, one number a tensor.
        held: Of averaged iterates: what multiplies each direction so that none is too long, where it is known before
            the directions are.
        kernel: What works on the batch.
        starts: Where the cells of each parameter start among all cells of the optimizer.
        cells_in_all: Number of those.
        plans: What kernels remember of the layout of an optimizer's parameters.
        addresses: What kernels remember, in this step, of where tensors lie.
        layouts: What kernels remember of the batch as long as it is kept: how it is laid out, what its options say,
            what was compiled for it and what that is called with.
    """

    rule: Rule
    options: Mapping[str, Any]
    start: int
    index: list[int]
    cells: list[Cells]
    parameters: list[Tensor]
    gradients: list[Tensor]
    state: dict[str, list[Tensor]]
    steps: list[Tensor]
    elementwise: bool
    horizon: float
    norms: bool
    complex_pairs: bool
    at_training_point: bool = False
    interpolation: float = 1.0
    rounds: bool = False
    seeds: Sequence[Tensor] | None = None
    held: Sequence[Tensor] | None = None
    kernel: Any = None
    starts: list[int] = field(default_factory=list)
    cells_in_all: int = 0
    plans: dict[Any, Any] = field(default_factory=dict)
    addresses: dict[str, Any] = field(default_factory=dict)
    layouts: dict[Any, Any] = field(default_factory=dict)

    @property
    def reference_state(self) -> str | None:
        """State the gradient is compared with, or ``None`` when the last direction is rebuilt."""
        if self.horizon > 0:
            return TRACE
        return DIRECTION if self.rule.keeps_direction(self.options) else None

    @property
    def coupled_decay(self) -> float:
        """Weight decay that is part of the gradient."""
        decay: float = self.options.get("weight_decay", 0.0)
        return 0.0 if self.options.get("decoupled_weight_decay") else decay

    @property
    def decoupled_decay(self) -> float:
        """Weight decay applied beside the gradient, with the combined rate."""
        decay: float = self.options.get("weight_decay", 0.0)
        return decay if self.options.get("decoupled_weight_decay") else 0.0


@dataclass
class Measured:
    """Agreement of one batch, and squared norms when asked for.

    Attributes:
        rows: For each tensor its sums over cells, ``(1, 3 or 6, cells)``: agreement, ``‖g‖²``, ``‖e‖²`` and, of
            averaged iterates, ``‖y − y₀‖²``, ``⟨g, d⟩`` and ``⟨g, y₀ − y⟩``.
        elements: For each tensor the first three without summing, when there is a rate per element.
        table: Instead of ``rows``, the sums at their place among all cells of the optimizer, 0 elsewhere.
    """

    rows: list[Tensor]
    elements: list[list[Tensor]]
    table: Tensor | None = None


@dataclass
class Looked:
    """What a look at gradients tells before anything moves.

    Attributes:
        squares: ``‖g‖²`` of every tensor of the batch; not finite when an element is not.
    """

    squares: Tensor


class Numbers:
    """A quantity with one number a tensor."""

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector
        self._single: Sequence[Tensor] | None = None

    @property
    def single(self) -> Sequence[Tensor]:
        """The numbers one by one, 0-d; unbound when first asked for (no cached_property: its lock breaks graphs)."""
        if self._single is None:
            self._single = self.vector.unbind()
        return self._single

    def of(self, positions: list[int]) -> Picked:
        """Those of some tensors, for a batch."""
        return Picked(self, positions)


class Picked(Sequence[Tensor]):
    """Numbers of a batch's tensors: a sequence of 0-d tensors that need not be made where a vector will do."""

    def __init__(self, numbers: Numbers, positions: list[int]) -> None:
        self._numbers, self._positions = numbers, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: Any) -> Any:
        return self._numbers.single[self._positions[index]]

    def __iter__(self) -> Iterator[Tensor]:
        single = self._numbers.single
        return iter([single[i] for i in self._positions])

    @property
    def of_group(self) -> Tensor:
        """What they were picked from."""
        return self._numbers.vector

    def vector(self, plans: dict[Any, Any]) -> Tensor:
        """All of them, ``(tensors,)``; where they are is remembered among the plans."""
        everything = self._numbers.vector
        if len(self._positions) == len(everything):
            return everything
        key = ("positions", everything.device, *self._positions)
        return everything[once(plans, key, lambda: torch.tensor(self._positions, device=everything.device))]


class CellRates(Sequence[Tensor]):
    """Rates of a batch's tensors out of those of all cells, each shaped to broadcast against its tensor."""

    def __init__(self, cells: Tensor, tree: Tree, index: list[int]) -> None:
        self.cells, self._tree, self._index = cells, tree, index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Any) -> Any:
        return self._tree.broadcast(self._index[index], self.cells)

    def __iter__(self) -> Iterator[Tensor]:
        return iter([self._tree.broadcast(i, self.cells) for i in self._index])


def once(plans: dict[Any, Any], key: Hashable, make: Callable[[], _T]) -> _T:
    """What is among the plans, put there if it is not: on a device, the host would wait for every copy anew."""
    if key not in plans:
        plans[key] = make()
    plan: _T = plans[key]
    return plan


def vector(numbers: Sequence[Tensor], plans: dict[Any, Any]) -> Tensor:
    """One number a tensor as a vector."""
    return numbers.vector(plans) if isinstance(numbers, Picked) else torch.stack(list(numbers))


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Precision a parameter's gradient is computed with: half-precision types in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def square_norm(gradient: Tensor) -> Tensor:
    """``‖g‖²`` of one tensor, 0-d; not finite when an element is not."""
    if gradient.is_contiguous() and gradient.dtype in (torch.float32, torch.float64):
        flat = gradient.flatten()
        return torch.dot(flat, flat)
    return gradient.to(arithmetic_dtype(gradient.dtype)).square().sum()


def held(squares: Tensor, elements: int | Tensor, longest: float) -> Tensor:
    """What to multiply directions by so that their root mean square is at most ``longest``.

    Args:
        squares: Their squared norms.
        elements: How many elements they have, at least 1.
        longest: The limit.
    """
    return (squares / (elements * longest**2)).clamp(min=1.0).rsqrt()
