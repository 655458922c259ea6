"""Work on gradients while ``backward`` goes on, as soon as they are there and still in the cache.

An optimizer that measures before it moves lets its sums be gathered early, and a step is then the moving alone. One
whose rates are known before the gradients are lets its parameters be moved early: their gradients are freed at once,
and ``step()`` only learns from what was measured on the way.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef

from multirate.measuring import indices

if TYPE_CHECKING:
    from multirate.moving import Moved
    from multirate.optimizer import MultiRate

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
        self._elements = 0
        self._measured: dict[int, _Mark] = {}
        self._stepped: set[int] = set()
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
        if _processes() > 1:
            raise RuntimeError(
                "in_backward: True sees gradients before they are averaged over processes; use in_backward=False"
            )
        if index in self._stepped:
            raise RuntimeError(
                "in_backward: a second backward pass came before step(), but parameters were moved in the first; call "
                "step() after every backward pass, one that failed included, or accumulate with in_backward=False"
            )
        self._waiting.append(index)
        self._elements += self._parameters[index].numel()
        if self._elements >= _TOGETHER:
            self.flush()

    @torch.no_grad()
    def flush(self) -> None:
        """Works on the gradients that are waiting."""
        optimizer, waiting = self._optimizer(), {*self._waiting}
        self._waiting, self._elements = [], 0
        if optimizer is None or not waiting:
            return
        optimizer._follow()
        if optimizer._early is not self:  # it was laid out anew
            if optimizer._early is not None:
                optimizer._early._waiting = [*waiting]
                optimizer._early.flush()
            return
        if optimizer.moves_first:
            batches = optimizer._batches({i for i in waiting if optimizer._may_move_early(i)})
            if batches:
                self.moved.append(optimizer._move_by_known_rates(batches, self.moved))
                self._stepped |= self.moved[-1].index
                for i in self.moved[-1].index:
                    self._parameters[i].grad = None
        else:
            batches = optimizer._batches(waiting)
            rows = optimizer._sums(batches)[0]
            chosen = optimizer._cells_of(indices(batches))
            self.table = rows if self.table is None else torch.where(chosen, rows, self.table)
            for batch in batches:
                for i in batch.index:
                    gradient = self._parameters[i].grad
                    assert gradient is not None
                    self._measured[i] = _Mark(
                        TensorWeakRef(gradient), gradient._version, self._parameters[i]._version, _told(batch.options)
                    )

    def is_measured(self, index: int, options: Mapping[str, Any]) -> bool:
        """Whether the gradient of a parameter is what was measured, and has not been changed since.

        What autograd does not see is not seen here: ``gradient.data``, or a NumPy array of it.
        """
        mark, parameter = self._measured.get(index), self._parameters[index]
        gradient = parameter.grad
        return (
            mark is not None
            and gradient is not None
            and mark.gradient() is gradient
            and (gradient._version, parameter._version) == (mark.version, mark.of_parameter)
            and _told(options) == mark.options
        )

    def forget(self) -> None:
        """Begins anew, after a step."""
        self._waiting, self._elements = [], 0
        self.moved, self.table = [], None
        self._stepped.clear()
        self._measured.clear()


@dataclass(frozen=True)
class _Mark:
    """What a gradient was measured from.

    Attributes:
        gradient: The gradient.
        version: How often it had been changed.
        of_parameter: How often the parameter had been.
        options: Options that are part of the gradient.
    """

    gradient: TensorWeakRef
    version: int
    of_parameter: int
    options: tuple[Any, ...]


def _told(options: Mapping[str, Any]) -> tuple[Any, ...]:
    return options.get("weight_decay"), options["maximize"]


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
