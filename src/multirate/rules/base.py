"""What a rule is: the direction a parameter would move in, the rate not yet applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf, log
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from multirate.tensorlist import TensorList

Elements: TypeAlias = Any
"""A :class:`torch.Tensor` or a :class:`~multirate.tensorlist.TensorList`: formulas are written once for both."""

State: TypeAlias = Mapping[str, Elements]
Options: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Rule(ABC):
    """Direction ``d_t`` of a base optimizer, so that ``θ_t = θ_{t-1} − rate · scale · d_t``.

    The fields of a rule are its options; they become options of the param groups, where each group may override them.
    Buffers change only through coefficients that vanish when ``live`` is 0, so that a step with a non-finite
    gradient (whose elements arrive here as 0) leaves them exactly as they were, without a host read.
    """

    default_lr: ClassVar[float] = 1e-3
    scalars: ClassVar[Mapping[str, float]] = {}
    """Per-tensor scalars beside ``step`` that the rule keeps, with their initial values."""
    normalised: ClassVar[bool] = True
    """Whether an element of the first direction is about 1 in size, whatever the gradient."""
    longest: ClassVar[float] = inf
    """For averaged iterates: the root mean square that the direction of a tensor is held to."""
    direction_dtype: ClassVar[torch.dtype | None] = None
    """Storage type of the previous direction where the rule has to keep it (``None``: the state's own)."""

    def options(self) -> dict[str, Any]:
        """The rule's options with their values, as defaults of param groups."""
        return asdict(self)

    def check(self, options: Options) -> None:
        """Raises ``ValueError`` when an option of a param group is out of range."""
        for name in ("weight_decay", "eps"):
            if name in options:
                in_range(name, options[name], low=0.0)
        if "betas" in options:
            for beta in options["betas"]:
                in_range("betas", beta, low=0.0, below=1.0)

    @abstractmethod
    def buffers(self, options: Options) -> Mapping[str, float]:
        """Names of the elementwise state and the value each starts at."""

    def keeps_direction(self, options: Options) -> bool:
        """Whether the previous direction cannot be rebuilt from the buffers, so that it has to be kept."""
        return False

    def advance_scalars(self, scalars: dict[str, Tensor], live: Tensor, options: Options) -> None:
        """Updates the per-tensor scalars (vectors over tensors) after ``step`` has been counted."""
        return

    def coefficients(self, scalars: Mapping[str, Tensor], options: Options) -> dict[str, Tensor]:
        """Per-tensor numbers of the update ``scalars["step"]``; ``scale``, if present, multiplies the direction."""
        return {}

    def rebuild(self, state: State, c: Mapping[str, Any], options: Options) -> Elements:
        """The direction that led to ``state``, ``scale`` left out; never one of the buffers changed in place."""
        raise AssertionError(f"{type(self).__name__} keeps its previous direction")

    @abstractmethod
    def update(
        self, gradient: Elements, state: State, c: Mapping[str, Any], live: Tensor, options: Options
    ) -> Elements:
        """Updates the buffers with a gradient and returns the new direction, ``scale`` left out."""

    def interpolation(self, options: Options) -> float:
        """For averaged iterates: the weight of the average in the point where gradients are taken."""
        return 0.8

    def displacement(
        self, direction: Elements, state: State, c: Mapping[str, Any], rate: Elements, options: Options
    ) -> tuple[Elements, Elements] | None:
        """For a rule not linear in the rate: what to subtract and its derivative by the rate; else ``None``."""
        return None


def ratio(numerator: Elements, denominator: Elements) -> Elements:
    """``numerator / denominator``, written over the denominator: a fresh tensor as large costs page faults."""
    if isinstance(denominator, TensorList):
        for n, d in zip(numerator, denominator, strict=True):
            torch.div(n, d, out=d)
        return denominator
    return torch.div(numerator, denominator, out=denominator)


def in_range(
    name: str,
    value: Any,
    *,
    low: float = float("-inf"),
    high: float = float("inf"),
    below: float = float("inf"),
) -> float:
    """Returns a number as float if it lies in ``[low, high]`` and under ``below``, else raises ``ValueError``."""
    number = float(value)
    if (
        not (low <= number <= high)
        or not (number < below or below == float("inf"))
        or number
        in (
            float("inf"),
            float("-inf"),
        )
    ):
        bound = f"below {below}" if below != float("inf") else f"at most {high}" if high != float("inf") else "finite"
        raise ValueError(f"{name}: {value!r} is out of range; use a number that is at least {low} and {bound}")
    return number


def one_minus_power(base: float, step: Tensor) -> Tensor:
    """``1 − base**step`` without the cancellation that a base near 1 brings in float32."""
    if base == 0.0:
        return torch.where(step > 0, 1.0, 0.0).to(step.dtype)
    return -torch.expm1(step * log(base))


def square_root(numbers: Tensor) -> Tensor:
    """√ of a few numbers, without the library that ``sqrt`` asks, whose threads a busy machine keeps waiting."""
    return numbers.pow(0.5)


def keep(factor: float, live: Tensor) -> Tensor:
    """A decay factor that is 1 on a skipped step."""
    return 1.0 - live * (1.0 - factor)
