"""The tensors one kernel call works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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

    @property
    def reference_state(self) -> str | None:
        """State the gradient is compared with, or ``None`` when the last direction is rebuilt."""
        if self.horizon > 0:
            return TRACE
        return DIRECTION if self.rule.keeps_direction(self.options) else None

    @property
    def coupled_decay(self) -> float:
        """Weight decay that is part of the gradient."""
        return 0.0 if self.options.get("decoupled_weight_decay") else float(self.options.get("weight_decay", 0.0))

    @property
    def decoupled_decay(self) -> float:
        """Weight decay applied beside the gradient, with the combined rate."""
        return float(self.options.get("weight_decay", 0.0)) if self.options.get("decoupled_weight_decay") else 0.0


@dataclass
class Measured:
    """Agreement of one batch, and squared norms when asked for.

    Attributes:
        rows: For each tensor its sums over cells, ``(1, 3 or 4, cells)``: agreement, ``‖g‖²``, ``‖e‖²`` and, of
            averaged iterates, ``‖y − y₀‖²``.
        elements: For each tensor the same without summing, when there is a rate per element.
    """

    rows: list[Tensor]
    elements: list[list[Tensor]]


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Precision a parameter's gradient is computed with: half-precision types in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def square_norm(gradient: Tensor) -> Tensor:
    """``‖g‖²`` of one tensor, 0-d; not finite when an element is not."""
    if gradient.is_contiguous() and gradient.dtype in (torch.float32, torch.float64):
        flat = gradient.flatten()
        return torch.dot(flat, flat)
    return gradient.to(arithmetic_dtype(gradient.dtype)).square().sum()


def held(squares: Tensor, elements: int, longest: float) -> Tensor:
    """What to multiply a direction by so that its root mean square is at most ``longest``.

    Args:
        squares: Its squared norm, 0-d.
        elements: How many elements it has.
        longest: The limit.
    """
    return (squares / (max(elements, 1) * longest**2)).clamp(min=1.0).rsqrt()
