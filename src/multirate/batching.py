"""Parameters with a gradient, collected into batches for the kernels; kept from step to step while nothing changes."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from dataclasses import dataclass
from math import inf
from operator import is_, itemgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from multirate import kernels
from multirate.kernels import Batch

if TYPE_CHECKING:
    from multirate.optimizer import MultiRate

_TOGETHER = 1 << 15
"""Small tensors are processed together up to this many elements; on a CPU larger batches only leave the cache."""
_TOGETHER_ON_DEVICE = 1 << 26

_MOST_PLANS = 2000
"""Layouts to remember."""

_in_one_piece = Tensor.is_contiguous


@dataclass
class _Kept:
    """Batches of the last step, with what has to be as it was for them to serve again.

    Attributes:
        batches: The batches.
        groups: What decided of each param group.
        types: Type of the gradients of every batch.
        states: For every batch the state of each parameter.
        absent: Parameters that had no gradient.
    """

    batches: list[Batch]
    groups: list[Any]
    types: list[torch.dtype]
    states: list[list[dict[str, Any]]]
    absent: list[Tensor]


class Collector:
    """Makes the batches of one optimizer's steps."""

    def __init__(self, optimizer: MultiRate) -> None:
        self._reference = weakref.ref(optimizer)
        self._kept: _Kept | None = None

    @property
    def _optimizer(self) -> MultiRate:
        optimizer = self._reference()
        assert optimizer is not None
        return optimizer

    def collect(self, among: Collection[int] | None = None) -> list[Batch]:
        """Batches of one group, type, device, kernel and bounded size.

        Args:
            among: Positions of the parameters to look at (default: all).

        Raises:
            RuntimeError: For a sparse gradient or a sharded parameter.
        """
        if torch.compiler.is_compiling():
            return self._collected(among)
        self._bound_plans()
        if among is not None:
            return self._collected(among)
        groups = [
            (id(group), group.get("foreach"), *self._optimizer._elementwise(group))
            for group in self._optimizer.param_groups
        ]
        if self._kept is None or groups != self._kept.groups or not self._serves(self._kept):
            self._kept = self._noted(self._collected(None), groups)
        return [] if self._kept is None else self._kept.batches

    def _bound_plans(self) -> None:
        """Forgets how to lay out sets of parameters when there have been many, as where experts take turns."""
        plans = self._optimizer._plans
        if len(plans) > _MOST_PLANS:
            kept = {key: plan for key, plan in plans.items() if key == "captured"}
            plans.clear()
            plans.update(kept)

    def release(self) -> None:
        """Lets go of gradients, after a step, so that they can be freed."""
        for batch in [] if self._kept is None else self._kept.batches:
            batch.gradients = []
            batch.addresses = {}

    def _serves(self, kept: _Kept) -> bool:
        """Whether batches fit the present gradients and state, which are put into them."""
        optimizer, state = self._optimizer, self._optimizer.state
        if any(parameter.grad is not None for parameter in kept.absent):
            return False
        for batch, dtype, taken in zip(kept.batches, kept.types, kept.states, strict=True):
            parameters = batch.parameters
            gradients: list[Any] = [parameter.grad for parameter in parameters]
            if (
                not all(type(g) is Tensor and g.dtype is dtype for g in gradients)
                or not all(map(_in_one_piece, gradients))
                or not all(map(_in_one_piece, parameters))
                or not all(map(is_, map(state.__getitem__, parameters), taken))
            ):
                return False
            for name, tensors in batch.state.items():
                if not all(map(is_, map(itemgetter(name), taken), tensors)):
                    return False
            batch.gradients = gradients
            batch.held = None
            batch.addresses = {}
            optimizer._place(batch)
        return True

    def _noted(self, batches: list[Batch], groups: list[Any]) -> _Kept:
        """Batches with what has to stay; they serve again if gradients lie in one piece and no numbers are pairs."""
        state, parameters = self._optimizer.state, self._optimizer._parameters
        plain = all(map(_in_one_piece, (gradient for batch in batches for gradient in batch.gradients)))
        usable = plain and not any(batch.complex_pairs for batch in batches)
        states = [[state[parameters[i]] for i in batch.index] for batch in batches]
        types = [batch.gradients[0].dtype for batch in batches]
        absent = [parameter for parameter in parameters if parameter.grad is None]
        return _Kept(batches, groups if usable else [], types, states, absent)

    def _collected(self, among: Collection[int] | None) -> list[Batch]:
        optimizer = self._optimizer
        batches: list[Batch] = []
        index = -1
        for group in optimizer.param_groups:
            start, names = index + 1, [*optimizer._elementwise(group)]
            open_batches: dict[object, tuple[Batch, int]] = {}
            fit: dict[object, tuple[Batch, list[ModuleType]]] = {}
            for parameter in group["params"]:
                index += 1
                if among is not None and index not in among:
                    continue
                gradient = parameter.grad
                if gradient is None:
                    continue
                _refuse(parameter)
                state, size, cells = optimizer.state[parameter], parameter.numel(), optimizer._tree.cells[index]
                if any(name not in state for name in names):
                    optimizer._allocate(parameter, group)
                alike = (parameter.dtype, parameter.device)
                if alike not in fit:
                    model = optimizer._empty_batch(group, parameter, start, names)
                    fit[alike] = model, kernels.candidates(model, parameter)
                tensors = [state[name] for name in names]
                kernel = kernels.choose(fit[alike][1], fit[alike][0], cells, parameter, gradient, tensors)
                limit = _limit(parameter, kernel)
                kind = (*alike, kernel.__name__, *(tensor.dtype for tensor in tensors))
                batch, filled = open_batches.get(kind, (None, 0))
                if batch is None or filled + size > limit:
                    batch, filled = optimizer._empty_batch(group, parameter, start, names), 0
                    batch.kernel = kernel
                    batches.append(batch)
                if size <= limit:  # a larger tensor is a batch of its own, and the open one stays open
                    open_batches[kind] = (batch, filled + size)
                self._add(batch, index, parameter, tensors)
        return batches

    def _add(self, batch: Batch, index: int, parameter: Tensor, tensors: list[Tensor]) -> None:
        optimizer, gradient = self._optimizer, parameter.grad
        assert gradient is not None
        batch.index.append(index)
        batch.cells.append(optimizer._tree.cells[index])
        batch.starts.append(optimizer._tree.offsets[index])
        batch.steps.append(optimizer.state[parameter]["step"])
        if batch.complex_pairs:
            parameter, gradient = torch.view_as_real(parameter), torch.view_as_real(gradient.resolve_conj())
            tensors = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
        batch.parameters.append(parameter)
        batch.gradients.append(gradient)
        for kept, tensor in zip(batch.state.values(), tensors, strict=True):
            kept.append(tensor)


def _limit(parameter: Tensor, kernel: ModuleType) -> float:
    """How many elements a batch may have."""
    if kernel in kernels.UNLIMITED:
        return inf
    return _TOGETHER if parameter.device.type == "cpu" else _TOGETHER_ON_DEVICE


def _refuse(parameter: Tensor) -> None:
    """Raises for what would be computed wrongly."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout != torch.strided:
        raise RuntimeError(
            "gradient: sparse gradients are not supported; use sparse=False in the embedding, "
            "torch.optim.SparseAdam for that parameter, or p.grad = p.grad.to_dense()"
        )
    if hasattr(parameter, "placements"):
        raise RuntimeError(
            "params: sharded parameters (DTensor) are not supported: their sums would be local ones; "
            "use DistributedDataParallel, whose parameters are whole"
        )
