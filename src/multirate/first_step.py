"""The first step of what has not moved yet: a small share of the norm of what is moved, whatever ``lr`` is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from multirate.memory import Memory, settle

_SHARE = 3e-3
"""The first step, as a share of the norm of the parameters."""
_SMALLEST_SIZE = 1e-2
"""Root mean square that parameters are taken to have at least, for the first step of those that begin at 0."""


def note_sizes(memory: Memory, parameters: Iterable[Tensor], present: Tensor) -> None:
    """Remembers how large what sets out is of nodes that have not moved, small parameters taken as larger.

    Args:
        memory: The optimizer's, with the slots of :class:`multirate.adaptation.DistanceRates`.
        parameters: All parameters.
        present: Of every tensor 1, or 0 where it does not set out: what is frozen or stands still has no say.
    """
    tree, sizes = memory.tree, []
    for parameter, cells in zip(parameters, tree.cells, strict=True):
        real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
        sizes.append(cells.reduce(real.to(memory.dtype).square()).to(memory.device))
    table = torch.stack([torch.cat(sizes), tree.elements_of_cell]) * present[tree.tensor_of_cell]
    squares, count = tree.pool(table, "cell", tree.levels[0])
    squares = torch.maximum(squares, count * _SMALLEST_SIZE**2)
    settle(memory["size"], squares.sqrt(), count * (memory["squares"] == 0))


def set_out(memory: Memory, mean_squares: Tensor | None, moving: Tensor) -> None:
    """The first rate of nodes that have not moved.

    Args:
        memory: As above, with sizes noted.
        mean_squares: Of every tensor how long an element of its direction is, squared; ``None`` where it is 1.
        moving: Of every tensor 1, or 0 where it stands still.
    """
    tree = memory.tree
    movers = moving[tree.tensor_of_cell]
    steps = tree.elements_of_cell * movers
    if mean_squares is not None:
        steps = steps * mean_squares[tree.tensor_of_cell]
    step, movers = tree.pool(torch.stack([steps, movers]), "cell", tree.levels[0])
    first = memory["size"] * _SHARE / step.sqrt()
    settle(memory["first_rate"], first, movers * (memory["squares"] == 0))
