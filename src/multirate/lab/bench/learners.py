"""Ways to train several seeds of a small model in one process: one after another, or batched by `torch.func.vmap`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from multirate.lab.machine import Machine
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.problems.base import Batch
from multirate.lab.problems.classification import Classification
from multirate.lab.results import Trial
from multirate.lab.tasks import TASKS
from multirate.lab.trial import NOISE_OFFSET, trial_settings

ELEMENTWISE = ("torch.optim:Adam", "torch.optim:AdamW", "torch.optim:SGD")
"""Optimizers for which stacked parameters are no different from separate ones."""


class Learner:
    """A model, its optimizer and its own order of the examples, as a trial with this seed has them.

    Args:
        task: Name of a classification task whose model has no buffers.
        optimizer: Name of an optimizer that asks for gradients alone.
        seed: The seed.
        device: Where to train, as for `Machine`.

    Raises:
        ValueError: If task or optimizer are not of this kind, or the device is not there.
    """

    def __init__(self, task: str, optimizer: str, seed: int, device: str = "cpu") -> None:
        machine = Machine(device)
        with machine.fork_random(seed):
            problem = TASKS[task].problem(machine.torch_device(), None)
        if not isinstance(problem, Classification) or any(True for _ in problem.model.buffers()):
            raise ValueError(f"task {task!r} cannot be batched: choose a classification task without normalisation")
        self.problem = problem
        self.optimizer_name = optimizer
        self._settings = trial_settings(Trial(task, optimizer, seed, epochs=1))
        self._order = torch.Generator().manual_seed(seed)
        self._noise = torch.Generator().manual_seed(seed + NOISE_OFFSET)

    def build_optimizer(self, parameters: Mapping[str, Any]) -> torch.optim.Optimizer:
        """Return the optimizer over these parameters."""
        optimizer = OPTIMIZERS[self.optimizer_name].build(parameters.items(), self._settings)
        needs = getattr(optimizer, "needs", "gradient")
        if needs != "gradient" or hasattr(optimizer, "prepare"):
            raise ValueError(f"optimizer {self.optimizer_name!r} cannot be batched: it asks for more than gradients")
        train = getattr(optimizer, "train", None)
        if train is not None:
            train()
        return optimizer

    def batches(self) -> Iterator[Batch]:
        """Yield batches, epoch after epoch, without an end."""
        while True:
            yield from self.problem.batches(self._order, self._noise)


class Successive:
    """Learners trained one after another.

    Args:
        learners: The learners.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self._learners = learners
        self._optimizers = [each.build_optimizer(dict(each.problem.model.named_parameters())) for each in learners]

    def train(self, steps: int) -> Tensor:
        """Take steps; return the training losses, shape (learners, steps)."""
        return torch.stack([self._train(*each, steps) for each in zip(self._learners, self._optimizers, strict=True)])

    def _train(self, learner: Learner, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
        losses = []
        for _, batch in zip(range(steps), learner.batches(), strict=False):
            optimizer.zero_grad()
            loss = learner.problem.loss(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)


class Batched:
    """Learners trained at once, on parameters of shape (learners, …).

    The gradient of the sum of the learners' losses is, in each learner's part, the gradient of its own loss.
    Where learned rates come from sums over the tensors of a model, one optimizer for all would mix the learners: there
    each has its own, over views of its parts.

    Args:
        learners: The learners; their models serve as initial values.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self._learners = learners
        models = [learner.problem.model for learner in learners]
        stacked, _ = stack_module_state(models)
        self._stacked: dict[str, Tensor] = {name: nn.Parameter(tensor.detach()) for name, tensor in stacked.items()}
        # Without storage: all it gives is the order of the operations.
        self._model = copy.deepcopy(models[0]).to("meta")
        self._parts: list[dict[str, nn.Parameter]] = []
        if is_elementwise(learners[0].optimizer_name):
            self._optimizers = [learners[0].build_optimizer(self._stacked)]
        else:
            self._parts = [
                {name: nn.Parameter(tensor.detach()[index]) for name, tensor in self._stacked.items()}
                for index in range(len(learners))
            ]
            self._optimizers = [
                learner.build_optimizer(part) for learner, part in zip(learners, self._parts, strict=True)
            ]
        self._losses = vmap(self._loss)

    def train(self, steps: int) -> Tensor:
        """Take steps; return the training losses, shape (learners, steps)."""
        losses = []
        streams = [learner.batches() for learner in self._learners]
        for _, batches in zip(range(steps), zip(*streams, strict=True), strict=False):
            inputs, targets = (torch.stack(tensors) for tensors in zip(*batches, strict=True))
            values = self._losses(self._stacked, inputs, targets)
            self._step(values.sum())
            losses.append(values.detach())
        return torch.stack(losses, dim=1)

    def _loss(self, parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(self._model, parameters, (inputs,)), targets)

    def _step(self, loss: Tensor) -> None:
        for tensor in self._stacked.values():
            tensor.grad = None
        # Not `torch.autograd.grad`: its gradients may be strided otherwise than the parameters, which torch's fused
        # kernels do not expect.
        loss.backward()
        for index, part in enumerate(self._parts):
            for name, parameter in part.items():
                gradient = self._stacked[name].grad
                parameter.grad = None if gradient is None else gradient[index]
        for optimizer in self._optimizers:
            optimizer.step()


def is_elementwise(optimizer: str) -> bool:
    """Return whether one optimizer over stacked parameters does what one for each seed does."""
    return OPTIMIZERS[optimizer].constructor in ELEMENTWISE
