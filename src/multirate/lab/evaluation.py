"""Measuring a model under training, at the weights that its optimizer means to be used."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.swa_utils import update_bn

from multirate.lab.machine import Machine
from multirate.lab.problems.base import Problem
from multirate.lab.stepping import forward_context

BATCH_NORM_BATCHES = 50
"""Training batches over which batch norm is measured again before averaged weights are evaluated."""


@torch.no_grad()
def evaluate(problem: Problem, optimizer: Any, machine: Machine, seed: int) -> Mapping[str, float]:
    """Return what a problem measures, its model and optimizer left in evaluation mode.

    Args:
        problem: What is trained.
        optimizer: Its optimizer.
        machine: Device and precision.
        seed: Chooses the batches that batch norm is measured on again, where the optimizer averages weights.
    """
    set_mode(problem, optimizer, training=False)
    if callable(getattr(optimizer, "eval", None)):
        _measure_batch_norm(problem, seed)
    with forward_context(machine):
        return problem.evaluate()


def set_mode(problem: Problem, optimizer: Any, *, training: bool) -> None:
    """Put a model into the mode for training or evaluation, and an optimizer that has modes too."""
    problem.model.train(training)
    # Optimizers that average iterates swap them with the parameters through modes of their own.
    switch = getattr(optimizer, "train" if training else "eval", None)
    if switch is not None:
        switch()


def _measure_batch_norm(problem: Problem, seed: int) -> None:
    """Measure batch norm's statistics at averaged weights: the running ones belong to those trained at."""
    examples, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    batches = itertools.islice(problem.batches(examples, noise), BATCH_NORM_BATCHES)
    # Without batch norm it returns at once.
    update_bn((batch[0] for batch in batches if batch), problem.model)
