"""Adam on a CPU by torch's own fused kernel: one pass over memory instead of eight.

Only that update is fused; measuring and averaged iterates are those of :mod:`multirate.kernels.foreach`. The kernel
leaves everything as it was when ``found_inf`` is 1, which is what a skipped step needs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from multirate.kernels.batch import Batch
from multirate.kernels.foreach import advance, measure
from multirate.rules import Adam

__all__ = ["advance", "apply", "fits", "measure"]


def fits(batch: Batch) -> bool:
    """Whether the update is right for a batch: Adam, on a CPU, one rate a tensor, state in the parameters' type."""
    first = batch.parameters[0]
    return (
        type(batch.rule) is Adam
        and batch.options.get("foreach") is None
        and first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and batch.horizon == 0
        and not batch.elementwise
        and not batch.complex_pairs
        and not torch.compiler.is_compiling()
        and all(cells.whole for cells in batch.cells)
        and all(p.is_contiguous() and g.is_contiguous() for p, g in zip(batch.parameters, batch.gradients, strict=True))
        and all(t.is_contiguous() for tensors in batch.state.values() for t in tensors)
    )


def apply(batch: Batch, rates: list[Tensor], c: Mapping[str, list[Tensor]], live: Tensor, moved: list[Tensor]) -> None:
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
