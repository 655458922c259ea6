"""Where the cells of a tensor lie in memory."""

from __future__ import annotations

from math import prod

from torch import Tensor

from multirate.levels.cells import Cells


def runs(cells: Cells) -> tuple[int, int, int, int]:
    """Sizes ``(A, B, C, D)`` such that element ``((a B + b) C + c) D + d`` of a tensor belongs to cell ``a C + c``."""
    shape = cells.shape
    if cells.whole:
        return 1, 1, 1, prod(shape)
    if cells.split is None:
        (dim,) = cells.dims
        return 1, prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :])
    outer, inner = cells.split
    if cells.dims == (0,):
        return outer, 1, 1, inner * prod(shape[1:])
    return outer, inner, shape[1], prod(shape[2:])


def alike(cells: Cells, elementwise: bool, first: Tensor, others: list[Tensor]) -> bool:
    """Whether tensors may be walked through in the order of their memory, element by element together."""
    for tensor in (first, *others):  # a loop, for this is asked of every tensor in every step
        if not tensor.is_contiguous():
            break
    else:
        return True
    strides = first.stride()
    if elementwise or any(t.stride() != strides for t in others):
        return False
    step = 1
    for stride, size in sorted(zip(strides, first.shape, strict=True)):
        if size != 1:
            if stride != step:
                return False
            step *= size
    outermost = first.shape[0] == 1 or strides[0] * first.shape[0] == first.numel()
    return cells.whole or (cells.dims == (0,) and cells.split is None and outermost)
