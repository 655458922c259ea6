"""Numbers that write down what is done with them.

A kernel run on symbols instead of tensors leaves behind the arithmetic of one element: formulas stay written once, in
the rules and in :mod:`multirate.kernels.reference`, and compilers are given what they say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

import torch

Number: TypeAlias = "Symbol | float"


class Kind(IntEnum):
    """What a value has one number for; an operation on two kinds has the finer one."""

    CALL = 0
    """Known to the host before the kernel starts, such as an option."""
    TENSOR = 1
    CELL = 2
    ELEMENT = 3


@dataclass(frozen=True, eq=False)
class Node:
    """One value: a constant, an input, or an operation on others."""

    operation: str
    arguments: tuple[Any, ...]
    kind: Kind

    def __repr__(self) -> str:
        return f"{self.operation}{self.arguments}"


@dataclass
class Recorder:
    """Makes nodes; equal operations on equal arguments are one node, so that nothing is computed twice."""

    known: dict[tuple[Any, ...], Node] = field(default_factory=dict)

    def node(self, operation: str, *arguments: Any, kind: Kind | None = None) -> Node:
        """The node of an operation; its kind is that of the finest argument."""
        key = (operation, *arguments)
        if key not in self.known:
            finest = max((a.kind for a in arguments if isinstance(a, Node)), default=Kind.CALL)
            self.known[key] = Node(operation, arguments, finest if kind is None else kind)
        return self.known[key]

    def input(self, name: str, kind: Kind, *, dtype: torch.dtype = torch.float32, value: float | None = None) -> Symbol:
        """A value from outside; ``value`` decides what a rule asks of it, such as whether it is 0."""
        return Symbol(self, self.node("input", name, kind=kind), dtype, value)


class Symbol:
    """Stands for a tensor, or for one of the numbers that tensors are combined with, in code written for tensors.

    Methods have the names and meanings of those of :class:`torch.Tensor`.
    """

    def __init__(
        self, recorder: Recorder, node: Node, dtype: torch.dtype = torch.float32, value: float | None = None
    ) -> None:
        self.recorder, self.node, self.dtype, self._value = recorder, node, dtype, value

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _FUNCTIONS[function](*args, **(kwargs or {}))

    def _new(self, operation: str, *others: Number) -> Symbol:
        return Symbol(self.recorder, self.recorder.node(operation, *(self._node(o) for o in (self, *others))))

    def _node(self, value: Number) -> Node:
        return value.node if isinstance(value, Symbol) else self.recorder.node("constant", float(value))

    def _become(self, other: Number) -> Symbol:
        self.node = self._node(other)
        return self

    def _decided(self) -> float:
        if self._value is None:
            raise TypeError("only an option can decide what a formula is")
        return self._value

    def __bool__(self) -> bool:
        return self._decided() != 0

    def __gt__(self, other: Number) -> Symbol:
        found = self._new("greater", other)
        if self._value is not None and not isinstance(other, Symbol):
            found._value = float(self._value > other)
        return found

    def __add__(self, other: Number) -> Symbol:
        return self._new("add", other)

    def __sub__(self, other: Number) -> Symbol:
        return self._new("sub", other)

    def __mul__(self, other: Number) -> Symbol:
        return self._new("mul", other)

    def __truediv__(self, other: Number) -> Symbol:
        return self._new("div", other)

    def _constant(self, value: Number) -> Symbol:
        return Symbol(self.recorder, self._node(value))

    def __rsub__(self, other: float) -> Symbol:
        return self._constant(other) - self

    def __rtruediv__(self, other: float) -> Symbol:
        return self._constant(other) / self

    def __neg__(self) -> Symbol:
        return self._new("neg")

    __radd__ = __add__
    __rmul__ = __mul__

    def abs(self) -> Symbol:
        return self._new("abs")

    def sqrt(self) -> Symbol:
        return self._new("sqrt")

    def sign(self) -> Symbol:
        return self._new("sign")

    def minimum(self, other: Number) -> Symbol:
        return self._new("minimum", other)

    def maximum(self, other: Number) -> Symbol:
        return self._new("maximum", other)

    def clamp(self, low: Number, high: Number) -> Symbol:
        return self.maximum(low).minimum(high)

    def lerp(self, end: Symbol, weight: Number) -> Symbol:
        return self + (end - self) * weight

    def addcmul(self, first: Number, second: Number, value: Number = 1.0) -> Symbol:
        product = first if isinstance(value, float) and value == 1.0 else first * value
        return self + product * second

    def to(self, dtype: torch.dtype) -> Symbol:
        """Arithmetic is in one precision; a cast to whole numbers is that of the place it is stored in."""
        return self

    def copy_(self, other: Number) -> Symbol:
        return self._become(other)

    def add_(self, other: Number) -> Symbol:
        return self._become(self + other)

    def sub_(self, other: Number) -> Symbol:
        return self._become(self - other)

    def mul_(self, other: Number) -> Symbol:
        return self._become(self * other)

    def div_(self, other: Number) -> Symbol:
        return self._become(self / other)

    def lerp_(self, end: Symbol, weight: Number) -> Symbol:
        return self._become(self.lerp(end, weight))

    def addcmul_(self, first: Number, second: Number, value: Number = 1.0) -> Symbol:
        return self._become(self.addcmul(first, second, value))

    def clamp_min_(self, other: Number) -> Symbol:
        return self._become(self.maximum(other))


def _where(condition: Symbol, chosen: Number, other: Number) -> Symbol:
    if condition._value is not None:
        return condition._constant(chosen if condition else other)
    return condition._new("where", chosen, other)


def _div(numerator: Symbol, denominator: Symbol, *, out: Symbol) -> Symbol:
    return out.copy_(numerator / denominator)


_FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {torch.where: _where, torch.div: _div, torch.stack: list}


def ordered(outputs: Sequence[Node]) -> Iterator[Node]:
    """All that the outputs are made of, each node once and after its arguments."""
    seen: set[int] = set()

    def visit(node: Node) -> Iterator[Node]:
        if id(node) in seen:
            return
        seen.add(id(node))
        for argument in node.arguments:
            if isinstance(argument, Node):
                yield from visit(argument)
        yield node

    for output in outputs:
        yield from visit(output)
