"""How one tensor falls into cells, the finest parts that may have a rate of their own short of single elements."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from multirate.levels.partition import ParameterInfo


@dataclass(frozen=True)
class Cells:
    """The cells of one tensor.

    Attributes:
        shape: Shape of the tensor as the kernels see it (complex elements as a last dimension of two).
        count: Number of cells; 1 means the whole tensor.
        dims: Dimensions of the (split) tensor indexed by the cell; empty for a whole tensor.
        split: ``(outer, inner)`` sizes that dimension 0 is split into first, or ``None``.
    """

    shape: tuple[int, ...]
    count: int
    dims: tuple[int, ...]
    split: tuple[int, int] | None

    @property
    def whole(self) -> bool:
        """Whether the tensor is a single cell."""
        return not self.dims

    @property
    def elements(self) -> float:
        """Number of elements in each cell."""
        return prod(self.shape) / self.count if self.count else 0.0

    def reduce(self, values: Tensor) -> Tensor:
        """Sums an elementwise tensor over each cell: shape ``self.shape`` to ``(count,)``."""
        if self.whole:
            return values.sum().reshape(1)
        if self.split is not None:
            values = values.unflatten(0, self.split)
        others = [d for d in range(values.ndim) if d not in self.dims]
        return (values.sum(others) if others else values).reshape(self.count)

    def broadcast(self, values: Tensor) -> Tensor:
        """Shapes one value a cell, ``(count,)``, so that it broadcasts against the tensor."""
        if self.whole:
            return values.reshape(())
        if self.split is None:
            shape = [1] * len(self.shape)
            shape[self.dims[0]] = self.count
            return values.reshape(shape)
        outer, inner = self.split
        per_outer = self.count // outer
        rows = values.reshape(outer, per_outer).repeat_interleave(inner, 0)
        trailing = [per_outer] + [1] * (len(self.shape) - 2) if len(self.shape) > 1 else []
        return rows.reshape(self.shape[0], *trailing)


def cells_of(info: ParameterInfo, *, units: bool, gates: bool) -> Cells:
    """The cells of a tensor when its units, or at least its gates, have rates of their own."""
    shape = (*info.shape, 2) if info.is_complex else info.shape
    if units and info.unit_dims:
        return Cells(shape, info.unit_count, info.unit_dims, info.unit_split)
    if gates and info.gates:
        number = len(info.gates)
        return Cells(shape, number, (0,), (number, info.shape[0] // number))
    return Cells(shape, 1, (), None)
