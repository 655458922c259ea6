"""Work on gradients while ``backward`` goes on, as soon as they are there and still in the cache.

An optimizer that measures before it moves lets its sums be gathered early, and a step is then the moving alone. One
whose rates are known before the gradients are lets its parameters be moved early: their gradients are freed at once,
and ``step()`` only learns from what was measured on the way.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from multirate.optimizer import Moved, MultiRate

_TOGETHER = 1 << 20
"""Elements that are waited for: their gradients are still in a cache, and few calls are made."""


class EarlyWork:
    """The hooks of one optimizer on its parameters, and what they have done since the last step.

    Args:
        optimizer: Whose work it is.
        parameters: Its parameters, in order.

    Attributes:
        moved: What came of the parameters that were moved.
        table: Sums of the cells that were measured, ``(sums, cells)``.
    """

    def __init__(self, optimizer: MultiRate, parameters: Sequence[Tensor]) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._parameters = parameters
        self._waiting: list[int] = []
        self._measured: dict[int, tuple[Tensor, int]] = {}
        self.moved: list[Moved] = []
        self.table: Tensor | None = None
        self._handles = [
            parameter.register_post_accumulate_grad_hook(_Ready(self, index))
            for index, parameter in enumerate(parameters)
            if parameter.requires_grad
        ]
        weakref.finalize(optimizer, _take_off, self._handles)

    def detach(self) -> None:
        """Takes the hooks off."""
        _take_off(self._handles)

    def ready(self, index: int) -> None:
        """The gradient of a parameter is there.

        Raises:
            RuntimeError: When gradients are still to be reduced over processes, or were moved with already.
        """
        optimizer = self._optimizer()
        if optimizer is None:
            return
        if _processes() > 1:
            raise RuntimeError(
                "in_backward: True sees gradients before they are averaged over processes; use in_backward=False"
            )
        if any(index in moved.index for moved in self.moved):
            raise RuntimeError(
                "in_backward: a second backward pass came before step(), but parameters were moved in the first; "
                "use in_backward=False to accumulate gradients"
            )
        self._waiting.append(index)
        if sum(self._parameters[i].numel() for i in self._waiting) >= _TOGETHER:
            self.flush()

    @torch.no_grad()
    def flush(self) -> None:
        """Works on the gradients that are waiting."""
        optimizer, waiting = self._optimizer(), {*self._waiting}
        self._waiting = []
        if optimizer is None or not waiting:
            return
        if optimizer.moves_first:
            batches = optimizer._batches({i for i in waiting if optimizer._may_move_early(i)})
            if batches:
                self.moved.append(optimizer._move_by_known_rates(batches, again=bool(self.moved)))
                for i in self.moved[-1].index:
                    self._parameters[i].grad = None
        else:
            batches = optimizer._batches(waiting)
            rows = optimizer._sums(batches)[0]
            chosen = optimizer._cells_of({i for batch in batches for i in batch.index})
            self.table = rows if self.table is None else torch.where(chosen, rows, self.table)
            for batch in batches:
                for i in batch.index:
                    gradient = self._parameters[i].grad
                    assert gradient is not None
                    self._measured[i] = gradient, gradient._version

    def is_measured(self, index: int) -> bool:
        """Whether the gradient of a parameter is the one that was measured, and has not been changed since."""
        gradient, version = self._measured.get(index, (None, 0))
        return gradient is not None and self._parameters[index].grad is gradient and gradient._version == version

    def forget(self) -> None:
        """Begins anew, after a step."""
        self.moved, self.table = [], None
        self._measured.clear()


def _take_off(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


def _processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _Ready:
    """The hook of one parameter; a copy of it does nothing."""

    def __init__(self, work: EarlyWork | None = None, index: int = -1) -> None:
        self._work, self._index = weakref.ref(work) if work is not None else None, index

    def __call__(self, _: Tensor) -> None:
        work = self._work() if self._work is not None else None
        if work is not None:
            work.ready(self._index)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Ready:
        return _Ready()

    def __reduce__(self) -> tuple[type[_Ready], tuple[()]]:
        return _Ready, ()
