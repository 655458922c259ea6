"""Adam on a CPU by torch's own fused kernel: one pass over memory instead of eight.

Only that update is fused; measuring and averaged iterates are those of :mod:`multirate.kernels.foreach`. The kernel
leaves everything as it was when ``found_inf`` is 1, which is what a skipped step needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from multirate.kernels.batch import Batch
from multirate.kernels.foreach import advance, look, measure
from multirate.levels.cells import Cells
from multirate.rules import Adam

__all__ = ["advance", "apply", "fits", "look", "measure", "takes"]


def fits(batch: Batch, like: Tensor) -> bool:
    """Whether the update is right for a batch: Adam, on a CPU, a rate no finer than a tensor."""
    return (
        type(batch.rule) is Adam
        and batch.options.get("foreach") is None
        and like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.float64)
        and batch.horizon == 0
        and not batch.rounds
        and not batch.elementwise
        and not torch.compiler.is_compiling()
    )


def takes(batch: Batch, cells: Cells, parameter: Tensor, gradient: Tensor, state: list[Tensor]) -> bool:
    """Whether one parameter with its gradient and state can be worked on here."""
    return cells.whole and all(tensor.is_contiguous() for tensor in (parameter, gradient, *state))


def apply(
    batch: Batch, rates: Sequence[Tensor], c: Mapping[str, Sequence[Tensor]], live: Tensor, moved: Sequence[Tensor]
) -> None:
    """See :func:`multirate.kernels.reference.apply`."""
    options, state = batch.options, batch.state
    update = torch._fused_adamw_ if options["decoupled_weight_decay"] else torch._fused_adam_
    skip = 1.0 - live.to(torch.float32)
    beta1, beta2 = options["betas"]
    for i, parameter in enumerate(batch.parameters):
        update(
            [parameter],
            [batch.gradients[i]],
            [state["exp_avg"][i]],
            [state["exp_avg_sq"][i]],
            [state["max_exp_avg_sq"][i]] if options["amsgrad"] else [],
            [batch.steps[i]],
            lr=rates[i],
            beta1=beta1,
            beta2=beta2,
            weight_decay=float(options["weight_decay"]),
            eps=options["eps"],
            amsgrad=options["amsgrad"],
            maximize=options["maximize"],
            found_inf=skip,
        )
    torch.autograd.graph.increment_version(batch.parameters)  # the kernel does not
