"""What compiles and runs a program for a batch: Numba on a CPU, Triton on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from multirate.kernels.batch import Batch, Numbers, arithmetic_dtype
from multirate.kernels.compiled import cpu, cuda
from multirate.kernels.compiled.programs import GRADIENT, PARAMETER, Program

Kernel: TypeAlias = cpu.Kernel | cuda.Kernel


def on_device(batch: Batch) -> bool:
    """Whether a GPU does the work, whose results the host must not wait for."""
    return cuda.available(batch.parameters[0].device)


def made(batch: Batch, program: Program) -> Kernel:
    """A program compiled for batches like this one."""
    first = batch.parameters[0].dtype
    types = {PARAMETER: first, GRADIENT: first, **{name: tensors[0].dtype for name, tensors in batch.state.items()}}
    return (cuda.Kernel if on_device(batch) else cpu.Kernel)(program, arithmetic_dtype(first), types)


def of_all(batch: Batch, value: Tensor) -> Sequence[Tensor]:
    """A number of the step as one of every tensor."""
    count = len(batch.index)
    return Numbers(value.expand(count)).of([*range(count)])
