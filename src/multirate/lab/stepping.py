"""One training step: the optimizer gets what it asks for."""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from multirate.lab.machine import Machine
from multirate.lab.problems.base import Batch, Problem


def forward_context(machine: Machine, needs: str = "gradient") -> ExitStack:
    """Return the context in which a model runs.

    Args:
        machine: Device and precision.
        needs: What the optimizer needs; `"graph"` chooses kernels that have second derivatives.
    """
    stack = ExitStack()
    stack.enter_context(torch.autocast(machine.torch_device().type, torch.bfloat16, enabled=machine.bf16))
    if needs == "graph":
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
    return stack


class Stepper:
    """Takes training steps.

    Args:
        problem: What is trained.
        optimizer: Any optimizer; its class attribute `needs` tells what it asks for, see
            `multirate.lab.opponents.base.Opponent`.
        machine: Device and precision.
    """

    def __init__(self, problem: Problem, optimizer: Any, machine: Machine) -> None:
        self._problem, self._optimizer, self._machine = problem, optimizer, machine
        self._needs = getattr(optimizer, "needs", "gradient")

    def step(self, batch: Batch) -> tuple[Tensor, bool]:
        """Return the loss, detached, and whether a step was taken: not where the loss is known not to be finite.

        Reading a number back from a GPU waits for it: there nothing is known yet, and the step is taken.
        """
        self._optimizer.zero_grad()
        with forward_context(self._machine, self._needs):
            loss = self._problem.loss(batch)
        value = loss.detach()
        if value.device.type == "cpu" and not math.isfinite(value):
            return value, False
        self._backward(loss)
        if self._needs == "loss":
            self._optimizer.step(lambda: value)
        elif self._needs == "closure":
            self._optimizer.step(lambda: self._loss_again(batch))
        else:
            self._optimizer.step()
        return value, True

    def _backward(self, loss: Tensor) -> None:
        if self._needs != "graph":
            loss.backward()
            return
        with warnings.catch_warnings():
            # Of a reference cycle, which `zero_grad` breaks before the next step.
            warnings.filterwarnings("ignore", "Using backward\\(\\) with create_graph=True", UserWarning)
            loss.backward(create_graph=True)

    @torch.no_grad()
    def _loss_again(self, batch: Batch) -> Tensor:
        # A line search must not move the running statistics of batch norm.
        self._problem.model.eval()
        with forward_context(self._machine):
            loss = self._problem.loss(batch).detach()
        self._problem.model.train()
        return loss
