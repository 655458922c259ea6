"""Arithmetic on a few numbers, recorded once and replayed without torch, in a small part of its time.

Between the passes over a model's elements a step works on some numbers a tensor, a cell and a node. On a CPU torch
takes microseconds for each such operation, however little there is to do, and a step has two hundred. So what torch
does is written down in a step like all others, and later steps do the same on the same memory, bit for bit: by a
compiled interpreter, by NumPy what that cannot do, and by torch what both would round otherwise. The formulas stay
where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from multirate.replay.recorder import Recorder
from multirate.replay.translation import quiet, translated

_USES_BEFORE = 1
"""Steps that are made in torch first: kinds of steps that do not come again are not worth writing down."""
_MOST = 64
"""Parts of steps to remember."""


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
        own = [given.clone() for given in inputs]
        self._inputs = [known.numpy() for known in own]
        with Recorder() as recorder:
            self.result = function(*own)
        self._calls = translated(recorder.steps)
        self.complete = self._calls is not None

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """Does the same once more, with other numbers in the arguments; returns :attr:`result`."""
        for known, given in zip(self._inputs, inputs, strict=True):
            known[...] = given.numpy()
        assert self._calls is not None
        with quiet():
            for call in self._calls:
                call.function(*call.arguments)
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


def is_constant(option: Any) -> bool:
    """Whether nobody can change an option without giving another one, so that it may be part of a key."""
    if isinstance(option, tuple):
        return all(map(is_constant, option))
    return option is None or isinstance(option, (bool, int, float, str))
