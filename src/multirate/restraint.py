"""What keeps gradients that have no scale of their own from carrying the parameters away, whatever came before.

A direction over the root of its second moment is never much longer than usual; a gradient can be a million times as
long as those by which the rate was found. So the gradient of a tensor counts for at most ten times what is usual there,
unless the one before was as long, and no step goes much further than a usual one may.
"""

from __future__ import annotations

import torch
from torch import Tensor

from multirate.levels import Values
from multirate.memory import TENSOR, Memory, Slot

_USUAL, _PREVIOUS = "usual_square", "previous_square"
SLOTS = (Slot(_USUAL, TENSOR), Slot(_PREVIOUS, TENSOR))
"""What is remembered of every tensor: the mean square of what its gradients counted for, and the square of the last."""
_LONGEST = 10.0
"""Norm of a gradient over the usual one or the one before, at most."""
_FURTHEST = 3.0
"""A step over that of a usual gradient at the highest rate, γ D / √t, at most."""
_LEAST_SHARE = 0.02
"""Weight of the newest square in the mean, at least: after 50 steps older ones fade."""


def restrain(memory: Memory, squares: Tensor, rates: Tensor, gain: float, moving: Tensor) -> tuple[Tensor, Tensor]:
    """What gradients and steps are multiplied by; takes in how long the gradients are.

    Args:
        memory: The optimizer's, with the slots of :class:`multirate.adaptation.DistanceRates`; this step is counted.
        squares: ``‖g‖²`` of every tensor, ``(tensors,)``.
        rates: Rates of the coarsest level, ``(nodes,)``.
        gain: γ of the rates' upper bound; no step goes further than this times the largest distance so far.
        moving: 1 for tensors that are moved, else 0.

    Returns:
        Of every tensor what its gradient counts for, and what its step is multiplied by beside that: at most 1.
    """
    tiny = torch.finfo(squares.dtype).tiny
    usual, some = memory[_USUAL], (squares > 0) & torch.isfinite(squares)
    limit = _LONGEST**2 * torch.maximum(usual, memory[_PREVIOUS])
    counted = torch.where(usual > 0, torch.minimum(squares, limit), squares)
    newest = torch.where(usual > 0, (1.0 / memory["step"].clamp(min=1.0)).clamp(min=_LEAST_SHARE), 1.0)
    learned: dict[str, Values] = {_USUAL: torch.lerp(usual, counted, newest), _PREVIOUS: squares}
    share = torch.where(some, (counted / squares.clamp(min=tiny)).sqrt(), 1.0)
    found = (memory["distance"], memory["squares"], memory["steps"].clamp(min=1.0))
    rate, distance, begun, steps = _of_tensors(memory, rates, *found)
    furthest = gain * distance * (_FURTHEST / steps.sqrt()).clamp(max=1.0)
    reach = furthest / (rate * counted.sqrt()).clamp(min=tiny)
    reach = torch.where((begun > 0) & some, reach.clamp(max=1.0), 1.0)
    memory.settle(learned, moving * some)
    return share, reach


def _of_tensors(memory: Memory, *values: Tensor) -> tuple[Tensor, ...]:
    """The most that any node of a tensor has, of several values of the coarsest level."""
    tree = memory.tree
    lifted = tree.lift(torch.stack(values, 1), tree.levels[0], "cell")
    assert isinstance(lifted, Tensor)
    index = tree.tensor_of_cell.unsqueeze(1).expand_as(lifted)
    most = lifted.new_zeros(len(tree.cells), len(values)).scatter_reduce(0, index, lifted, "amax")
    return most.unbind(1)
