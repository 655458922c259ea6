"""A list of tensors with a tensor's own arithmetic, so that a formula written once runs on one or on many.

Every method has the name and meaning of the method of :class:`torch.Tensor`; where torch has a ``_foreach_`` kernel
for it, that is used.

Two kinds of lists do not hold what they stand for. A :class:`~multirate.levels.tree.Spread` has one value a cell, and
a formula of :mod:`multirate.kernels.compiled.formulas` none at all: it is written down, to be worked out in one pass
later. An operation is carried out by whichever operand is the laziest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor


class TensorList:
    """Tensors on which one operation acts at once; operands are other lists of the same length or numbers."""

    laziness: ClassVar[int] = 0
    """Of several operands the laziest, by this number, says what an operation is."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors themselves."""
        return self._tensors

    def over_cells(self, cells: Sequence[Any]) -> Tensor:
        """Sums over the cells of every tensor, ``(cells,)``."""
        return torch.cat([c.reduce(tensor) for c, tensor in zip(cells, self.tensors, strict=True)])

    def operate(self, operation: str, first: TensorList, *operands: Any, **scalars: Any) -> TensorList:
        """An operation on lists of which this one is the laziest."""
        if operation == "add" and isinstance(operands[0], Tensor):
            operands = ([operands[0]] * len(first),)  # the overload with one tensor would read it back to the host
        lists = [operand.tensors if isinstance(operand, TensorList) else operand for operand in operands]
        return TensorList(getattr(torch, f"_foreach_{operation}")(first.tensors, *lists, **scalars))

    def __len__(self) -> int:
        return len(self.tensors)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def __getitem__(self, index: int) -> Tensor:
        return self.tensors[index]

    def _foreach(self, operation: str, *operands: Any, **scalars: Any) -> TensorList:
        return self._laziest(operands).operate(operation, self, *operands, **scalars)

    def _laziest(self, operands: Sequence[Any]) -> TensorList:
        chosen = self
        for operand in operands:
            if isinstance(operand, TensorList) and operand.laziness > chosen.laziness:
                chosen = operand
        return chosen

    def _foreach_(self, operation: str, *operands: Any, **scalars: Any) -> TensorList:
        lists = [operand.tensors if isinstance(operand, TensorList) else operand for operand in operands]
        getattr(torch, f"_foreach_{operation}_")(self.tensors, *lists, **scalars)
        return self

    def _each(self, method: str, *operands: Any, **keywords: Any) -> TensorList:
        columns = [list(o) if isinstance(o, TensorList) else [o] * len(self) for o in operands]
        rows = zip(*columns, strict=True) if columns else ((),) * len(self)
        pairs = zip(self.tensors, rows, strict=True)
        return TensorList([getattr(tensor, method)(*row, **keywords) for tensor, row in pairs])

    def add(self, other: Any) -> TensorList:
        return self._foreach("add", other)

    def add_(self, other: Any) -> TensorList:
        return self._foreach_("add", other)

    def sub(self, other: Any) -> TensorList:
        return self._foreach("sub", other)

    def sub_(self, other: Any) -> TensorList:
        return self._foreach_("sub", other)

    def mul(self, other: Any) -> TensorList:
        return self._foreach("mul", other)

    def mul_(self, other: Any) -> TensorList:
        return self._foreach_("mul", other)

    def div(self, other: Any) -> TensorList:
        return self._foreach("div", other)

    def div_(self, other: Any) -> TensorList:
        return self._foreach_("div", other)

    def neg(self) -> TensorList:
        return self._foreach("neg")

    def abs(self) -> TensorList:
        return self._foreach("abs")

    def sqrt(self) -> TensorList:
        return self._foreach("sqrt")

    def exp(self) -> TensorList:
        return self._foreach("exp")

    def sign(self) -> TensorList:
        return self._foreach("sign")

    def lerp_(self, end: TensorList, weight: Any) -> TensorList:
        if isinstance(weight, Tensor):  # the scalar overload would read a tensor back to the host
            weight = TensorList([weight] * len(self))
        return self._foreach_("lerp", end, weight)

    def lerp(self, end: TensorList, weight: Any) -> TensorList:
        return self._each("lerp", end, weight)

    def addcmul_(self, first: TensorList, second: TensorList, value: float = 1.0) -> TensorList:
        return self._foreach_("addcmul", first, second, value=value)

    def addcmul(self, first: TensorList, second: TensorList, value: float = 1.0) -> TensorList:
        return self._foreach("addcmul", first, second, value=value)

    def addcdiv_(self, first: TensorList, second: TensorList, value: float = 1.0) -> TensorList:
        return self._foreach_("addcdiv", first, second, value=value)

    def clamp_min_(self, other: TensorList) -> TensorList:
        return self._foreach_("clamp_min", other)

    def minimum(self, other: Any) -> TensorList:
        return self._each("minimum", other)

    def maximum(self, other: Any) -> TensorList:
        return self._each("maximum", other)

    def clamp(self, low: Any, high: Any) -> TensorList:
        return self._each("clamp", low, high)

    def clone(self) -> TensorList:
        return self._each("clone")

    __add__ = __radd__ = add
    __sub__ = sub
    __mul__ = __rmul__ = mul
    __truediv__ = div
    __neg__ = neg

    def __rsub__(self, other: Any) -> TensorList:
        return self.neg().add_(other)

    def __rtruediv__(self, other: Any) -> TensorList:
        return self._foreach("reciprocal").mul_(other)


class Lazy(TensorList):
    """A list that does not hold its tensors; its operations make nothing but others like it."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def end(self) -> None:
        """Lets go of what the values would be worked out from."""

    def _foreach_(self, operation: str, *operands: Any, **scalars: Any) -> TensorList:
        raise TypeError(
            f"{operation}_: values of the parameter level are worked out later and cannot be changed in place; "
            "write new ones with multirate.memory.settle_values"
        )

    def addcmul(self, first: TensorList, second: TensorList, value: float = 1.0) -> TensorList:
        return self.add(first.mul(second).mul(value))

    def settle(self, new: Any, live: Any) -> None:
        """Takes over new values where they are finite and the step is live, which not every such list can."""
        raise AssertionError(f"{type(self).__name__} keeps nothing")

    def clamp(self, low: Any, high: Any) -> TensorList:
        return self.operate("clamp", self, low, high)

    def __rsub__(self, other: Any) -> TensorList:
        return self.neg().add(other)

    def __rtruediv__(self, other: Any) -> TensorList:
        return self._foreach("reciprocal").mul(other)
