"""Arithmetic on a few numbers, recorded once and replayed by NumPy, which takes a fifth of torch's time for it.

Between the passes over a model's elements a step works on some numbers a tensor, a cell and a node. On a CPU torch
takes microseconds for each such operation, however little there is to do, and a step has two hundred. So what torch
does is written down in a step like all others, and later steps do the same on the same memory, bit for bit: what NumPy
would round otherwise is left to torch. The formulas stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import setitem
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and what to call it with."""
Array: TypeAlias = np.ndarray[Any, Any]

_USES_BEFORE = 2
"""Steps that are made in torch first: kinds of steps that do not come again are not worth writing down."""
_MOST = 64
"""Kinds of steps to remember."""

_SAME = {
    "abs": np.absolute, "add": np.add, "bitwise_and": np.bitwise_and, "bitwise_not": np.invert,
    "bitwise_or": np.bitwise_or, "ceil": np.ceil, "div": np.true_divide, "eq": np.equal, "floor": np.floor,
    "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal, "logical_and": np.logical_and,
    "logical_not": np.logical_not, "logical_or": np.logical_or, "lt": np.less, "maximum": np.maximum,
    "minimum": np.minimum, "mul": np.multiply, "ne": np.not_equal, "neg": np.negative, "reciprocal": np.reciprocal,
    "square": np.square, "sub": np.subtract,
}  # fmt: skip
"""Operations that NumPy rounds as torch does: a replayed step gives the same bits as one made in torch."""
_INTO = frozenset({"exp", "expm1", "index_add", "lerp", "log", "log1p", "pow", "sign", "sqrt"})
"""Operations that torch writes into memory that is there."""
_OVER_ALL = {
    "all": np.logical_and, "any": np.logical_or, "amax": np.maximum, "amin": np.minimum,
}  # fmt: skip
_COPIES = frozenset({"_to_copy", "clone", "copy", "copy_", "fill_"})
_MADE = frozenset(
    {"empty", "empty_like", "full", "full_like", "lift_fresh", "new_empty", "new_full", "new_ones", "new_zeros", "ones"}
    | {"ones_like", "scalar_tensor", "zeros", "zeros_like"}
)


class Replay:
    """What a function does with tensors on a CPU, recorded while it does it.

    Args:
        function: Reads its arguments, reads and writes other tensors that last; whatever else it depends on, indices
            among it, has to stay as it is.
        inputs: Its arguments.

    Attributes:
        result: What the function returned. Tensors in it are written anew by every replay.
        complete: Whether everything it did can be replayed.
    """

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
        self._inputs = [given.clone() for given in inputs]
        with _Recorder() as recorder:
            self.result = function(*self._inputs)
        self._calls: list[Call] = []
        self.complete = True
        try:
            self._calls = _translated(recorder.steps)
        except _UnknownError:
            self.complete = False

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """Does the same once more, with other numbers in the arguments; returns :attr:`result`."""
        for known, given in zip(self._inputs, inputs, strict=True):
            np.copyto(known.numpy(), given.numpy())
        with np.errstate(all="ignore"):
            for call, arguments in self._calls:
                call(*arguments)
        return self.result


class Replays:
    """What was recorded of the steps of one optimizer."""

    def __init__(self) -> None:
        self._owner: object = None
        self._known: dict[Hashable, Replay | int | None] = {}

    def belong_to(self, owner: object) -> None:
        """Forgets everything unless it belongs to this very object."""
        if owner is not self._owner:
            self._owner = owner
            self._known.clear()

    def __call__(self, key: Hashable, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """Calls a function, or replays what it did.

        Args:
            key: What the function depends on beside the numbers in tensors.
            function: See :class:`Replay`.
            inputs: Its arguments, of the same types and shapes whenever the key is the same.
        """
        known = self._known.get(key, 0)
        if isinstance(known, Replay):
            return known.run(inputs)
        if known is None:
            return function(*inputs)
        if len(self._known) >= _MOST:
            self._make_room()
        if known < _USES_BEFORE:
            self._known[key] = known + 1
            return function(*inputs)
        replay = Replay(function, inputs)
        self._known[key] = replay if replay.complete else None
        return replay.result

    def _make_room(self) -> None:
        """Forgets what has not come again, or else everything."""
        self._known = {key: known for key, known in self._known.items() if isinstance(known, Replay)}
        if len(self._known) >= _MOST:
            self._known.clear()


class _UnknownError(Exception):
    """An operation is not known here."""


@dataclass
class _Step:
    """One operation of torch.

    Attributes:
        operation: The operation.
        args: Its arguments.
        kwargs: Those given by name.
        result: What came of it.
        made: The numbers of a new tensor, before anything is written to it.
    """

    operation: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    result: Any
    made: Tensor | None

    @property
    def name(self) -> str:
        name: str = self.operation._schema.name
        return name.partition("::")[2]

    @property
    def writes(self) -> bool:
        """Whether it changes an argument."""
        changes: bool = self.operation._schema.is_mutable
        return changes

    @property
    def is_view(self) -> bool:
        """Whether the result lies where the first argument does."""
        results = [self.result] if isinstance(self.result, Tensor) else self.result
        first = self.args[0] if self.args else None
        return isinstance(first, Tensor) and not self.writes and all(_memory(r) == _memory(first) for r in results)


class _Recorder(TorchDispatchMode):
    """Writes down every operation with its arguments and its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[_Step] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        step = _Step(operation, args, kwargs or {}, operation(*args, **(kwargs or {})), None)
        if step.name in _MADE:
            step.made = step.result.clone()
        self.steps.append(step)
        return step.result


def _translated(steps: Sequence[_Step]) -> list[Call]:
    """The same for NumPy, on the very memory that torch has used. Views are there already.

    Raises:
        _UnknownError: For an operation that is not known.
    """
    written = {_memory(target) for step in steps if step.writes for target in _targets(step)}
    calls: list[Call] = []
    for step in steps:
        if step.name in _MADE:
            if step.made is not None and _memory(step.result) in written:
                calls.append(_copy(_array(step.result), _array(step.made)))
        elif not step.is_view:
            calls += _calls(step)
    return calls


def _targets(step: _Step) -> list[Tensor]:
    target = step.args[0]
    return [target] if isinstance(target, Tensor) else [*target]


def _calls(step: _Step) -> list[Call]:
    """What NumPy has to be called with for one operation."""
    name, args, result = step.name, step.args, step.result
    if name == "_foreach_copy_":
        return [_copy(_array(target), _array(source)) for target, source in zip(*args, strict=True)]
    if name in _COPIES:
        return [_copy(_array(result), _array(args[-1]))]
    if not isinstance(result, Tensor):
        raise _UnknownError(name)
    plain, out = name.removesuffix("_"), _array(result)
    if not step.kwargs:
        if plain in _SAME and len(args) == _SAME[plain].nin:
            return [_elementwise(_SAME[plain], args, out)]
        if plain in _OVER_ALL:
            return [_reduction(plain, args, out)]
        if plain in _OTHERS:
            return _OTHERS[plain](out, *args)
        if name in _INTO:
            return [(partial(getattr(torch, name), out=result), tuple(args))]
    again = partial(step.operation, **step.kwargs)
    return [(again, tuple(args)) if step.writes else (_write, (result, again, *args))]


def _write(result: Tensor, operation: Callable[..., Tensor], *args: Any) -> None:
    """An operation of torch for which there is nothing better."""
    result.copy_(operation(*args))


def _elementwise(function: np.ufunc, args: Sequence[Any], out: Array) -> Call:
    arrays = tuple(map(_array, args))
    if function in (np.maximum, np.minimum):  # which take no place for the result by position
        return partial(function, out=out), arrays
    return function, (*arrays, out)


def _copy(target: Array, source: Any) -> Call:
    return setitem, (target, ..., source)


def _reduction(name: str, args: Sequence[Any], out: Array) -> Call:
    values, axes, keep = (*args, None, None)[:3]
    axis = tuple(axes) or None if isinstance(axes, (list, tuple)) else axes
    return partial(_OVER_ALL[name].reduce, axis=axis, keepdims=bool(keep), out=out), (_array(values),)


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
    chosen = partial(np.copyto, where=_array(condition), casting="unsafe")
    return [_copy(out, _array(second)), (chosen, (out, _array(first)))]


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
    take = partial(np.take, axis=len(indices) - 1, out=out, mode="clip")
    return [(take, (_array(values), _array(indices[-1])))]


def _index_copy(out: Array, values: Tensor, dim: int, index: Tensor, source: Tensor) -> list[Call]:
    place, new = np.moveaxis(out, dim, 0), np.moveaxis(_array(source), dim, 0)
    return [_copy(out, _array(values)), (setitem, (place, _array(index), new))]


def _scatter_reduce(out: Array, values: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str) -> list[Call]:
    if reduce not in ("amax", "amin"):
        raise _UnknownError(reduce)
    where = [*np.indices(index.shape)]
    where[dim] = _array(index)
    return [_copy(out, _array(values)), (_OVER_ALL[reduce].at, (out, tuple(where), _array(source)))]


_OTHERS: Mapping[str, Callable[..., list[Call]]] = {
    "cat": _cat,
    "clamp": _clamp,
    "clamp_max": lambda out, values, high: _clamp(out, values, None, high),
    "clamp_min": _clamp,
    "index": _index,
    "index_copy": _index_copy,
    "rsqrt": lambda out, values: [(np.sqrt, (_array(values), out)), (np.reciprocal, (out, out))],
    "rsub": lambda out, values, other: [(np.subtract, (_array(other), _array(values), out))],
    "scatter_reduce": _scatter_reduce,
    "stack": _stack,
    "where": _where,
}


def _memory(tensor: Tensor) -> int:
    """Which piece of memory a tensor lies in."""
    piece: int = tensor.untyped_storage()._cdata
    return piece


def _array(value: Any) -> Any:
    """A tensor as NumPy sees it, or a number."""
    if isinstance(value, Tensor):
        if value.device.type != "cpu":
            raise _UnknownError(str(value.device))
        return value.numpy()
    if not isinstance(value, (bool, int, float, np.ndarray)):
        raise _UnknownError(repr(value))
    return value
