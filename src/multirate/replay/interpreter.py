"""One compiled function that works through a table of operations on a few numbers each.

A call of NumPy takes a quarter of a microsecond and more, however little there is to do; a row of the table takes a
tenth of that. Every operation is rounded as NumPy rounds it: operations on float32 are computed in float64 and rounded
again when they are stored, which for sums, products, quotients and square roots is as good as rounding once, since
float64 has more than twice as many digits and two (53 bits, 24).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from multirate.numba_compiler import FUNCTION, available, compiled

Array: TypeAlias = np.ndarray[Any, Any]

MOST = 1 << 8
"""Numbers up to which an operation is done here; NumPy's loops are the faster ones."""
_DIMENSIONS = 3

_COPY, _MASKED, _TAKE, _ADD_AT, _FIRST = range(5)
_OPERATIONS: Mapping[np.ufunc, str] = {
    np.add: "a + b",
    np.subtract: "a - b",
    np.multiply: "a * b",
    np.true_divide: "a / b",
    np.negative: "-a",
    np.absolute: "abs(a)",
    np.square: "a * a",
    np.reciprocal: "1.0 / a",
    np.sqrt: "sqrt(a)",
    np.ceil: "ceil(a)",
    np.floor: "-ceil(-a)",
    # What is not a number stays so.
    np.maximum: "a if a > b or a != a else b",
    np.minimum: "a if a < b or a != a else b",
    np.equal: "1.0 if a == b else 0.0",
    np.not_equal: "1.0 if a != b else 0.0",
    np.less: "1.0 if a < b else 0.0",
    np.less_equal: "1.0 if a <= b else 0.0",
    np.greater: "1.0 if a > b else 0.0",
    np.greater_equal: "1.0 if a >= b else 0.0",
    np.logical_and: "1.0 if a != 0.0 and b != 0.0 else 0.0",
    np.logical_or: "1.0 if a != 0.0 or b != 0.0 else 0.0",
    np.logical_not: "1.0 if a == 0.0 else 0.0",
}
_CODES = {function: code for code, function in enumerate(_OPERATIONS, start=_FIRST)}
_LOGIC = {np.bitwise_and: np.logical_and, np.bitwise_or: np.logical_or, np.invert: np.logical_not}
"""What operations on bits are to truth values."""
_FLOATS = tuple(np.dtype(kind) for kind in ("float32", "float64"))
_KINDS = {kind: number for number, kind in enumerate((*_FLOATS, np.dtype("bool")))}

_BRANCHES = "".join(
    f"    if code == {_CODES[function]}:\n        return {says}\n" for function, says in _OPERATIONS.items()
)
_SOURCE = f"""
def load(address, kind):
    if kind == 0:
        return float64(carray(as_pointer(address), (1,), float32)[0])
    if kind == 1:
        return carray(as_pointer(address), (1,), float64)[0]
    return float64(carray(as_pointer(address), (1,), int8)[0])

def store(address, kind, value):
    if kind == 0:
        carray(as_pointer(address), (1,), float32)[0] = float32(value)
    elif kind == 1:
        carray(as_pointer(address), (1,), float64)[0] = value
    else:
        carray(as_pointer(address), (1,), int8)[0] = int8(1) if value != 0.0 else int8(0)

def worked_out(code, a, b):
{_BRANCHES}    return a

def looked_up(address, count):
    return max(0, min(carray(as_pointer(address), (1,), int64)[0], count - 1))

def work(rows):
    for k in range(rows.shape[0]):
        row = rows[k]
        code = row[0]
        for i in range(row[2]):
            for j in range(row[3]):
                for l in range(row[4]):
                    out = row[5] + i * row[7] + j * row[8] + l * row[9]
                    a = row[10] + i * row[12] + j * row[13] + l * row[14]
                    b = row[15] + i * row[17] + j * row[18] + l * row[19]
                    if code == {_MASKED}:
                        if load(b, row[16]) != 0.0:
                            store(out, row[6], load(a, row[11]))
                    elif code == {_TAKE}:
                        place = a + looked_up(b, row[20]) * row[1]
                        store(out, row[6], load(place, row[11]))
                    elif code == {_ADD_AT}:
                        place = out + looked_up(b, row[20]) * row[1]
                        store(place, row[6], load(place, row[6]) + load(a, row[11]))
                    else:
                        store(out, row[6], worked_out(code, load(a, row[11]), load(b, row[16])))

def entry(data):
    a = carray(data, (2,), int64)
    work(carray(as_pointer(a[0]), (a[1], 21), int64))
"""

logger = logging.getLogger(__name__)


@cache
def machine() -> Callable[[int], None] | None:
    """The compiled function, or ``None`` where there is no Numba that compiles."""
    if not available():
        return None
    try:
        return FUNCTION(compiled(_SOURCE, "float64", exact=True))
    except Exception as error:  # NumPy can do it all
        logger.info("Arithmetic on a few numbers is replayed by NumPy alone: %s", error)
        return None


@dataclass(frozen=True)
class Row:
    """One operation of the table.

    Attributes:
        numbers: The operation, bytes from one place to the next where places are looked up, how often in each of three
            dimensions; of the result and two arguments the address, the type and the bytes from one to the next; and
            how many places there are to be looked up.
        arrays: What it reads and writes, which has to stay where it is.
    """

    numbers: tuple[int, ...]
    arrays: tuple[Array, ...]


class Table:
    """Operations to be done one after another.

    Args:
        rows: The operations.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = tuple(rows)
        self._numbers = np.array([row.numbers for row in rows], dtype=np.int64)
        self._data = np.array([self._numbers.ctypes.data, len(rows)], dtype=np.int64)
        self._where: int = self._data.ctypes.data
        function = machine()
        assert function is not None
        self._function = function

    def __call__(self) -> None:
        """Does them."""
        self._function(self._where)


def elementwise(function: np.ufunc, out: Array, arguments: Sequence[Any]) -> list[Row] | None:
    """Rows for a function of one or two arguments; ``None`` when it cannot be done here."""
    function = _LOGIC.get(function, function) if all(_is_truth(each) for each in (out, *arguments)) else function
    if function not in _CODES:
        return None
    inside, truth = np.result_type(*arguments), out.dtype == np.bool_
    if inside not in _KINDS or not (truth or inside == out.dtype) or (not truth and inside == np.bool_):
        return None
    first, second = [_array(each, inside) for each in (*arguments, *arguments)][:2]
    return _row(_CODES[function], out, first, second)


def copy(out: Array, source: Any) -> list[Row] | None:
    """Rows for a copy, into another type if need be; ``None`` when it cannot be done here."""
    values = _array(source, out.dtype)
    return _row(_COPY, out, values, values)


def masked(out: Array, source: Any, mask: Array) -> list[Row] | None:
    """Rows for a copy of what a mask says; ``None`` when it cannot be done here."""
    return _row(_MASKED, out, _array(source, out.dtype), mask) if mask.dtype == np.bool_ else None


def reduction(function: np.ufunc, out: Array, values: Array, axes: tuple[int, ...] | None) -> list[Row] | None:
    """Rows for the extreme over some axes (default: all), or whether all or any are; ``None`` when not here."""
    every = tuple(range(values.ndim))
    over = every if axes is None else tuple(axis % max(values.ndim, 1) for axis in axes)
    kept = tuple(axis for axis in every if axis not in over)
    if not values.size or out.size != np.prod([values.shape[axis] for axis in kept], dtype=int):
        return None
    if out.dtype not in (values.dtype, np.bool_):
        return None
    first = values[(*(0 if axis in over else slice(None) for axis in every), ...)]
    result = out.reshape(first.shape)
    if not np.shares_memory(result, out):
        return None
    of_all = np.broadcast_to(np.expand_dims(result, [axis for axis in every if axis in over]), values.shape)
    begin, go_on = copy(result, first), _row(_CODES[function], of_all, of_all, values)
    return None if begin is None or go_on is None else [*begin, *go_on]


def take(out: Array, values: Array, index: Array, axis: int) -> list[Row] | None:
    """Rows for ``values`` at some places of an axis; ``None`` when it cannot be done here."""
    if not _are_places(index) or values.dtype != out.dtype or np.may_share_memory(out, values) or not values.size:
        return None
    places = _along(index, axis, out.shape)
    begin = _at_first(values, axis, out.shape)
    return _row(_TAKE, out, begin, places, values.strides[axis], values.shape[axis])


def add_at(out: Array, values: Array, axis: int, index: Array, source: Array) -> list[Row] | None:
    """Rows for a copy of ``values`` with ``source`` added at some places of an axis; ``None`` when not here."""
    if not _are_places(index) or out.dtype not in _FLOATS or not out.dtype == values.dtype == source.dtype:
        return None
    if np.may_share_memory(out, source) or not values.size or not values.ndim:
        return None
    begin, places = copy(out, values), _along(index, axis, source.shape)
    first = _at_first(out, axis, source.shape)
    go_on = _row(_ADD_AT, first, source, places, out.strides[axis], out.shape[axis])
    return None if begin is None or go_on is None else [*begin, *go_on]


def _are_places(index: Array) -> bool:
    return index.ndim == 1 and index.dtype == np.int64


def _at_first(values: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """The first of an axis, again and again."""
    return np.broadcast_to(values[(slice(None),) * (axis % values.ndim) + (slice(0, 1),)], shape)


def _along(index: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """Places that run along an axis."""
    return np.broadcast_to(index.reshape(-1, *(1,) * (len(shape) - 1 - axis % len(shape))), shape)


def _is_truth(value: Any) -> bool:
    return np.result_type(value) == np.bool_


def _array(value: Any, kind: np.dtype[Any]) -> Array:
    """An array, or a number as one of a type."""
    assert not isinstance(value, np.generic), "a number out of an array would stay what it is"
    return value if isinstance(value, np.ndarray) else np.asarray(value, dtype=kind)


def _row(code: int, out: Array, first: Array, second: Array, scale: int = 0, places: int = 0) -> list[Row] | None:
    """The row of an operation, or ``None`` for too many numbers, other types, and arguments that it would overwrite."""
    looks_up = code in (_TAKE, _ADD_AT)
    shape = second.shape if looks_up else out.shape
    kinds = [_KINDS.get(each.dtype) for each in (out, first)]
    kinds.append(0 if looks_up else _KINDS.get(second.dtype))
    if machine() is None or None in kinds or np.prod(shape, dtype=int) > MOST:
        return None
    try:
        operands = [np.broadcast_to(each, shape) for each in (out, first, second)]
    except ValueError:
        return None
    result, *arguments = operands
    if any(not _is_itself(each, result) and np.may_share_memory(each, result) for each in arguments):
        return None
    dimensions = [axis for axis, size in enumerate(shape) if size != 1]
    if len(dimensions) > _DIMENSIONS:
        return None
    missing = (0,) * (_DIMENSIONS - len(dimensions))
    numbers = [code, scale, *(1 for _ in missing), *(shape[axis] for axis in dimensions)]
    for each, kind in zip(operands, kinds, strict=True):
        assert kind is not None
        numbers += [each.__array_interface__["data"][0], kind, *missing, *(each.strides[axis] for axis in dimensions)]
    return [Row((*numbers, places), tuple(operands))]


def _is_itself(one: Array, other: Array) -> bool:
    """Whether two arrays have their elements at the same places."""
    where = [(each.__array_interface__["data"][0], each.shape, each.strides) for each in (one, other)]
    return where[0] == where[1]
