"""Where learned values live: one packed tensor a quantity, seen from every parameter's state as a view.

Rates, weights and counters belong to nodes, not to parameters, but checkpoints (``torch.distributed.checkpoint`` among
them) keep nothing that is not state of a parameter. So each parameter's state holds views of the packed tensors: what
is saved is whole, whatever is loaded finds its node, and nothing is copied in a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multirate.levels import ELEMENT, Tree, Values
from multirate.tensorlist import Lazy, TensorList

TENSOR = "tensor"
"""Pseudo-level of quantities with one value a parameter tensor, such as ``step``."""
MODEL = "model"
"""Pseudo-level of quantities with one value in all."""


@dataclass(frozen=True)
class Slot:
    """A learned quantity: its key in the state, the level whose nodes it has a value for, and where it starts."""

    key: str
    level: str
    initial: float = 0.0


class Memory:
    """The packed values of an optimizer.

    Args:
        tree: Levels and their nodes.
        slots: Quantities to keep.
        device: Where packed values live (values of the parameter level live beside their parameter).
        dtype: Precision of all values; never that of a half-precision parameter.
        parameters: The parameters, in the tree's order.
    """

    def __init__(
        self,
        tree: Tree,
        slots: Iterable[Slot],
        device: torch.device,
        dtype: torch.dtype,
        parameters: list[Tensor],
    ) -> None:
        self.tree, self.device, self.dtype = tree, device, dtype
        self.slots = {slot.key: slot for slot in slots}
        self.values: dict[str, Values] = {}
        self.lent: Mapping[str, Values] = {}
        """What stands for values in the present step, which writes them at its end."""
        for key, slot in self.slots.items():
            if slot.level == ELEMENT:
                self.values[key] = TensorList(
                    [
                        torch.full(
                            (*p.shape, 1) if p.is_complex() else p.shape,
                            slot.initial,
                            dtype=dtype,
                            device=p.device,
                        )
                        for p in parameters
                    ]
                )
            else:
                self.values[key] = torch.full((self._size(slot.level),), slot.initial, dtype=dtype, device=device)

    def take_back(self) -> None:
        """Ends what stood for values in a step."""
        for value in self.lent.values():
            if isinstance(value, Lazy):
                value.end()
        self.lent = {}

    def settle(self, new: Mapping[str, Values], live: Values) -> None:
        """Writes new values of some quantities of one level, as :func:`settle_values` does, in few operations.

        Args:
            new: New values by key.
            live: For each node of the level whether the step counts (> 0).
        """
        packed = {key: values for key, values in new.items() if isinstance(values, Tensor)}
        for key, values in new.items():
            if key not in packed:
                settle_values(self[key], values, live)
        if packed:
            assert isinstance(live, Tensor)
            old = [self[key] for key in packed]
            table = torch.stack([*packed.values()])
            table = torch.where(torch.isfinite(table) & (live > 0), table, torch.stack(old))
            torch._foreach_copy_(old, table.unbind())

    def _size(self, level: str) -> int:
        if level == MODEL:
            return 1
        return len(self.tree.cells) if level == TENSOR else self.tree.size[level]

    def __getitem__(self, key: str) -> Any:
        return self.lent[key] if key in self.lent else self.values[key]

    def view(self, key: str, tensor: int) -> Tensor:
        """The part of a quantity that one parameter sees: a 0-d view where it is a single value."""
        values, level = self.values[key], self.slots[key].level
        if isinstance(values, TensorList):
            return values[tensor]
        if level == MODEL:
            return values[0]
        if level == TENSOR:
            return values[tensor]
        node = self.tree.spans[level][tensor]
        return values[node.start] if node.scalar else values[node.start : node.stop]

    def adopt(self, tensor: int, state: MutableMapping[str, Any], saved: Mapping[str, Any] | None = None) -> None:
        """Puts the views of one parameter into its state, taking over values that are already there.

        Args:
            tensor: Index of the parameter.
            state: The parameter's state; receives the views.
            saved: Where values to take over are (default: ``state`` itself).

        Raises:
            ValueError: When a saved value does not have the shape of its nodes.
        """
        source = state if saved is None else saved
        for key in self.slots:
            view = self.view(key, tensor)
            if key in source:
                value = torch.as_tensor(source[key])
                if value.shape != view.shape and value.numel() != view.numel():
                    raise ValueError(
                        f"state {key!r}: saved shape {tuple(value.shape)} does not fit the {tuple(view.shape)} of "
                        "this optimizer; construct it with the levels and parameters the state was saved with"
                    )
                view.copy_(value.reshape(view.shape))
            state[key] = view


def settle(old: Tensor, new: Tensor, live: Tensor) -> None:
    """Writes new values where they are finite and the step is live; keeps the old ones elsewhere."""
    old.copy_(torch.where(torch.isfinite(new) & (live > 0), new, old))


def settle_values(old: Values, new: Values, live: Values) -> None:
    """:func:`settle` for the values of any level."""
    if isinstance(old, Lazy):
        old.settle(new, live)
    elif isinstance(old, TensorList):
        assert isinstance(new, TensorList)
        masks = live if isinstance(live, TensorList) else TensorList([live.reshape(())] * len(old))
        for a, b, mask in zip(old, new, masks, strict=True):
            settle(a, b, mask.to(a.device))
    else:
        assert isinstance(new, Tensor)
        assert isinstance(live, Tensor)
        settle(old, new, live)
