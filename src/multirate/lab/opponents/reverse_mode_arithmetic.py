"""Momentum SGD in whole numbers, which can be run backwards exactly."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

# Numbers are multiples of 2^-40 below 2^22: finer than single precision near 1, with room for large velocities,
# and for the sum of two such numbers in 64 bits.
FRACTION_BITS = 40
LARGEST = 2.0**22

# How near a remainder may come to the largest 64-bit number before it is put aside.
LARGEST_REMAINDER = 2**62
LARGEST_DENOMINATOR = 1000


def to_fixed_point(values: Tensor) -> Tensor:
    """Round to the nearest multiple of 2^-40, as int64."""
    return (values.double() * 2.0**FRACTION_BITS).round().to(torch.int64)


def from_fixed_point(numbers: Tensor) -> Tensor:
    """Return what the whole numbers stand for, float64."""
    return numbers.double() * 2.0**-FRACTION_BITS


def _check_range(values: Tensor) -> None:
    # Written so that a NaN is out of range too.
    if values.numel() and not bool(values.abs().max() < LARGEST):
        raise OverflowError("the run has diverged")


class ReversibleMomentum:
    """Parameters and velocities in fixed point, whose steps can be undone bit by bit.

    A step is v ← μ v + g, θ ← θ - α v. The sums are exact in whole numbers. The multiplication by μ = n/d
    loses information: c is divided by d and multiplied by n, and what is lost, c mod d, is moved into a remainder
    kept for every coordinate, from which digits in base n move back into c. A step thus stores log₂(d/n) bits a
    coordinate (0.15 for μ = 0.9) where a copy of the parameters would take 32. When a remainder is about to
    overflow, all are put aside and start again from zero.

    Args:
        parameters: Where to start, one tensor per parameter; copied.
        momentum: The momentum, in (0, 1); rounded to the nearest fraction with a denominator up to 1000.

    Raises:
        ValueError: If ``momentum`` is out of range.
        OverflowError: From `step`, when a number leaves the range of the fixed point: the run has diverged.

    Reference:
        Maclaurin, Duvenaud, Adams 2015 (arXiv 1502.03492), algorithms 1 and 3. The velocity follows torch's SGD,
        without the paper's factor 1 - μ on the gradient and with its sign turned.
    """

    def __init__(self, parameters: Sequence[Tensor], momentum: float) -> None:
        ratio = Fraction(momentum).limit_denominator(LARGEST_DENOMINATOR)
        if not 0 < ratio < 1:
            raise ValueError(f"momentum: {momentum!r} must lie between 0.001 and 0.999: running back divides by it")
        self.ratio = ratio
        self._positions = [to_fixed_point(parameter.detach()) for parameter in parameters]
        self._velocities = [torch.zeros_like(position) for position in self._positions]
        self._remainders = [torch.zeros_like(position) for position in self._positions]
        self._put_aside: list[tuple[int, list[Tensor]]] = []
        # No remainder exceeds this.
        self._bound = 0
        self._steps = 0

    def parameters(self) -> list[Tensor]:
        """Return the parameters, float64."""
        return [from_fixed_point(position) for position in self._positions]

    def velocities(self) -> list[Tensor]:
        """Return the velocities, float64."""
        return [from_fixed_point(velocity) for velocity in self._velocities]

    def step(self, gradients: Sequence[Tensor], rates: Sequence[float]) -> None:
        """Make one step with a gradient and a rate for every parameter."""
        n, d = self.ratio.numerator, self.ratio.denominator
        if (self._bound + 1) * d > LARGEST_REMAINDER:
            self._put_aside.append((self._steps, self._remainders))
            self._remainders = [torch.zeros_like(position) for position in self._positions]
            self._bound = 0
        self._bound = ((self._bound + 1) * d) // n
        for index, (gradient, rate) in enumerate(zip(gradients, rates, strict=True)):
            velocity, remainder = self._velocities[index], self._remainders[index]
            _check_range(gradient)
            remainder = remainder * d + velocity.remainder(d)
            velocity = velocity.div(d, rounding_mode="floor") * n + remainder.remainder(n)
            self._remainders[index] = remainder.div(n, rounding_mode="floor")
            self._velocities[index] = velocity + to_fixed_point(gradient)
            moved = rate * from_fixed_point(self._velocities[index])
            _check_range(moved)
            self._positions[index] = self._positions[index] - to_fixed_point(moved)
            _check_range(from_fixed_point(self._velocities[index]))
            _check_range(from_fixed_point(self._positions[index]))
        self._steps += 1

    def undo_positions(self, rates: Sequence[float]) -> None:
        """Take the parameters back to where the last step began; then their gradients can be computed again."""
        for index, rate in enumerate(rates):
            moved = rate * from_fixed_point(self._velocities[index])
            self._positions[index] = self._positions[index] + to_fixed_point(moved)

    def undo_velocities(self, gradients: Sequence[Tensor]) -> None:
        """Take the velocities back too, with the gradients of the step that is undone."""
        n, d = self.ratio.numerator, self.ratio.denominator
        for index, gradient in enumerate(gradients):
            velocity = self._velocities[index] - to_fixed_point(gradient)
            remainder = self._remainders[index] * n + velocity.remainder(n)
            self._velocities[index] = velocity.div(n, rounding_mode="floor") * d + remainder.remainder(d)
            self._remainders[index] = remainder.div(d, rounding_mode="floor")
        self._steps -= 1
        if self._put_aside and self._put_aside[-1][0] == self._steps:
            self._remainders = self._put_aside.pop()[1]
