"""What torch does, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MADE = frozenset(
    {"empty", "empty_like", "full", "full_like", "lift_fresh", "new_empty", "new_full", "new_ones", "new_zeros", "ones"}
    | {"ones_like", "scalar_tensor", "zeros", "zeros_like"}
)
"""Operations that make new tensors out of nothing."""


@dataclass
class Step:
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
        """The name of the operation, one for all its overloads."""
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
        return isinstance(first, Tensor) and not self.writes and all(memory_of(r) == memory_of(first) for r in results)


class Recorder(TorchDispatchMode):
    """Writes down every operation with its arguments and its result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        step = Step(operation, args, kwargs or {}, operation(*args, **(kwargs or {})), None)
        if step.name in MADE:
            step.made = step.result.clone()
        self.steps.append(step)
        return step.result


def memory_of(tensor: Tensor) -> int:
    """Which piece of memory a tensor lies in."""
    piece: int = tensor.untyped_storage()._cdata
    return piece
