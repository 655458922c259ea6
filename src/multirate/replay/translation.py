"""What torch has done as calls of NumPy and the interpreter, where they give the same bits, and of torch where not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import setitem
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multirate.replay import interpreter
from multirate.replay.interpreter import Array, Row, Table
from multirate.replay.recorder import MADE, Step, memory_of


@dataclass(frozen=True)
class Call:
    """A function and what to call it with.

    Attributes:
        function: Of NumPy or torch.
        arguments: Its arguments.
        rows: The same for the interpreter, where it can do it.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    rows: Sequence[Row] | None = None


_SAME = {
    "abs": np.absolute, "add": np.add, "bitwise_and": np.bitwise_and, "bitwise_not": np.invert,
    "bitwise_or": np.bitwise_or, "ceil": np.ceil, "div": np.true_divide, "eq": np.equal, "floor": np.floor,
    "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal, "logical_and": np.logical_and,
    "logical_not": np.logical_not, "logical_or": np.logical_or, "lt": np.less, "maximum": np.maximum,
    "minimum": np.minimum, "mul": np.multiply, "ne": np.not_equal, "neg": np.negative, "reciprocal": np.reciprocal,
    "sub": np.subtract,
}  # fmt: skip
"""Operations that NumPy rounds as torch does: a replayed step gives the same bits as one made in torch."""
_INTO = frozenset({"exp", "expm1", "index_add", "lerp", "log", "log1p", "pow", "sign", "sqrt"})
"""Operations that torch writes into memory that is there."""
_OVER_ALL = {
    "all": np.logical_and, "any": np.logical_or, "amax": np.maximum, "amin": np.minimum,
}  # fmt: skip
_COPIES = frozenset({"_to_copy", "clone", "copy", "copy_", "fill_"})


class _UnknownError(Exception):
    """An operation is not known here."""


quiet = partial(np.errstate, all="ignore")
"""Has NumPy say nothing of what is infinite or no number."""


def translated(steps: Sequence[Step]) -> list[Call] | None:
    """The same for NumPy, on the very memory that torch has used; ``None`` when something is not known here."""
    try:
        calls = _translated(steps)
    except _UnknownError:
        return None
    joined: list[Call] = []
    for interpreted, run in groupby(calls, key=lambda call: call.rows is not None):
        several = [*run]
        joined += [Call(Table([row for call in several for row in call.rows or ()]))] if interpreted else several
    return joined


def _translated(steps: Sequence[Step]) -> list[Call]:
    """Calls for all that is not there already, as views are."""
    written = {memory_of(target) for step in steps if step.writes for target in _targets(step)}
    calls: list[Call] = []
    for step in steps:
        if step.name in MADE:
            if step.made is not None and memory_of(step.result) in written:
                calls.append(_copy(_array(step.result), _array(step.made)))
        elif not step.is_view:
            calls += _calls(step)
    return calls


def _targets(step: Step) -> list[Tensor]:
    target = step.args[0]
    return [target] if isinstance(target, Tensor) else [*target]


def _calls(step: Step) -> list[Call]:
    """What NumPy has to be called with for one operation."""
    name, args, result = step.name, step.args, step.result
    if name == "_foreach_copy_":
        return [_copy(_array(target), _array(source)) for target, source in zip(*args, strict=True)]
    if name in _COPIES:
        return [_copy(_array(result), _array(args[1 if step.writes else 0]))]
    if not isinstance(result, Tensor):
        raise _UnknownError(name)
    plain, out = name.removesuffix("_"), _array(result)
    if not step.kwargs:
        if plain in _SAME and len(args) == _SAME[plain].nin and not _are_mixed(args):
            return [_elementwise(_SAME[plain], args, out)]
        if plain in _OVER_ALL:
            return [_reduction(plain, args, out)]
        if plain == "pow" and _is_square(result, *args):
            return [_elementwise(np.square, args[:1], out)]
        if plain in _OTHERS:
            return _OTHERS[plain](out, *args)
        if name in _INTO:
            rows = _added_at(out, *args) if name == "index_add" else None
            return [Call(partial(getattr(torch, name), out=result), tuple(args), rows)]
    again = partial(step.operation, **step.kwargs)
    return [Call(again, tuple(args)) if step.writes else Call(_write, (result, again, *args))]


def _are_mixed(args: Sequence[Any]) -> bool:
    """Whether there are floats of two types: NumPy takes the wider one, torch that of what has dimensions."""
    return len({arg.dtype for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()}) > 1


def _is_square(result: Tensor, values: Any, power: Any) -> bool:
    """What torch makes of ``square``."""
    if isinstance(power, Tensor) or power != 2 or not isinstance(values, Tensor):
        return False
    return result.dtype == values.dtype and result.is_floating_point()


def _added_at(out: Array, values: Tensor, dim: int, index: Tensor, source: Tensor) -> Sequence[Row] | None:
    return interpreter.add_at(out, _array(values), dim, _array(index), _array(source))


def _write(result: Tensor, operation: Callable[..., Tensor], *args: Any) -> None:
    """An operation of torch for which there is nothing better."""
    result.copy_(operation(*args))


def _elementwise(function: np.ufunc, args: Sequence[Any], out: Array) -> Call:
    arrays = tuple(map(_array, args))
    rows = interpreter.elementwise(function, out, arrays)
    if function in (np.maximum, np.minimum):  # which take no place for the result by position
        return Call(partial(function, out=out), arrays, rows)
    return Call(function, (*arrays, out), rows)


def _copy(target: Array, source: Any) -> Call:
    return Call(setitem, (target, ..., source), interpreter.copy(target, source))


def _reduction(name: str, args: Sequence[Any], out: Array) -> Call:
    values, axes, keep = (*args, None, None)[:3]
    axis = tuple(axes) or None if isinstance(axes, (list, tuple)) else None if axes is None else (axes,)
    function, array = _OVER_ALL[name], _array(values)
    rows = interpreter.reduction(function, out, array, axis)
    return Call(partial(function.reduce, axis=axis, keepdims=bool(keep), out=out), (array,), rows)


def _clamp(out: Array, values: Tensor, low: Any = None, high: Any = None) -> list[Call]:
    found: list[Call] = []
    source = _array(values)
    if low is not None:
        found.append(_elementwise(np.maximum, (source, low), out))
        source = out
    if high is not None:
        found.append(_elementwise(np.minimum, (source, high), out))
    return found


def _where(out: Array, condition: Tensor, first: Any, second: Any) -> list[Call]:
    mask, source = _array(condition), _array(first)
    chosen = partial(np.copyto, where=mask, casting="unsafe")
    return [_copy(out, _array(second)), Call(chosen, (out, source), interpreter.masked(out, source, mask))]


def _stack(out: Array, parts: Sequence[Tensor], dim: int = 0) -> list[Call]:
    places = np.moveaxis(out, dim, 0)
    return [_copy(places[k, ...], _array(part)) for k, part in enumerate(parts)]


def _cat(out: Array, parts: Sequence[Tensor], dim: int = 0) -> list[Call]:
    ends = np.cumsum([part.shape[dim] for part in parts])
    places = np.split(out, ends[:-1], axis=dim)
    return [_copy(place, _array(part)) for place, part in zip(places, parts, strict=True)]


def _index(out: Array, values: Tensor, indices: Sequence[Tensor | None]) -> list[Call]:
    if any(index is not None for index in indices[:-1]) or indices[-1] is None or indices[-1].dtype != torch.int64:
        raise _UnknownError("index")
    if bool((indices[-1] < 0).any()):
        raise _UnknownError("index from the end")
    axis, source, index = len(indices) - 1, _array(values), _array(indices[-1])
    take = partial(np.take, axis=axis, out=out, mode="clip")
    return [Call(take, (source, index), interpreter.take(out, source, index, axis))]


def _index_copy(out: Array, values: Tensor, dim: int, index: Tensor, source: Tensor) -> list[Call]:
    place, new = np.moveaxis(out, dim, 0), np.moveaxis(_array(source), dim, 0)
    return [_copy(out, _array(values)), Call(setitem, (place, _array(index), new))]


def _scatter_reduce(out: Array, values: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str) -> list[Call]:
    if reduce not in ("amax", "amin"):
        raise _UnknownError(reduce)
    where = [*np.indices(index.shape)]
    where[dim] = _array(index)
    return [_copy(out, _array(values)), Call(_OVER_ALL[reduce].at, (out, tuple(where), _array(source)))]


_OTHERS: Mapping[str, Callable[..., list[Call]]] = {
    "cat": _cat,
    "clamp": _clamp,
    "clamp_max": lambda out, values, high: _clamp(out, values, None, high),
    "clamp_min": _clamp,
    "index": _index,
    "index_copy": _index_copy,
    "rsqrt": lambda out, values: [_elementwise(np.sqrt, [values], out), _elementwise(np.reciprocal, [out], out)],
    "rsub": lambda out, values, other: [_elementwise(np.subtract, [other, values], out)],
    "scatter_reduce": _scatter_reduce,
    "stack": _stack,
    "where": _where,
}


def _array(value: Any) -> Any:
    """A tensor as NumPy sees it, or a number."""
    if isinstance(value, Tensor):
        if value.device.type != "cpu":
            raise _UnknownError(str(value.device))
        return value.numpy()
    if not isinstance(value, (bool, int, float, np.ndarray)):
        raise _UnknownError(repr(value))
    return value
