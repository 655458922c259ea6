"""Stochastic meta-descent: a rate for every parameter from Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from multirate.rules.base import in_range


def hessian_vector_product(parameters: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """Return H v for the loss that gave the parameters their gradients, in the parameters' shapes.

    Args:
        parameters: With gradients that ``backward(create_graph=True)`` made; its graph is freed here.
        vectors: v, one for each parameter and of its shape.

    Raises:
        RuntimeError: If no gradient carries a graph.
    """
    # A gradient that depends on no parameter carries no graph; its rows of the Hessian are zero.
    rows = [
        (parameter.grad, vector)
        for parameter, vector in zip(parameters, vectors, strict=True)
        if parameter.grad is not None and parameter.grad.requires_grad
    ]
    if not rows:
        raise RuntimeError("the gradients carry no graph; call loss.backward(create_graph=True) before step()")
    gradients, chosen = zip(*rows, strict=True)
    return list(torch.autograd.grad(gradients, list(parameters), chosen, allow_unused=True, materialize_grads=True))


class SMD(torch.optim.Optimizer):
    r"""Gradient descent with a rate for every parameter, learned by stochastic meta-descent.

    .. math::
        p_t &= p_{t-1} \max(\rho, 1 - \mu\, v_t g_t) \\
        w_{t+1} &= w_t - p_t g_t \\
        v_{t+1} &= \lambda v_t - p_t (g_t + \lambda H_t v_t)

    elementwise but for the product of the Hessian :math:`H_t` of the batch's loss with v, which is exact. :math:`v`
    is the derivative of the parameters by the logarithms of the rates, forgetting with λ; it starts at zero and
    :math:`p_0` = ``lr``.

    Args:
        params: Parameters, named pairs or groups.
        lr: The rate every parameter starts with. What is learned is a factor to it, so that schedules multiply.
        meta_lr: μ. The default is that of published implementations, as the paper sets it per experiment.
        decay: λ; likewise.
        floor: ρ, the smallest factor by which a rate changes in one step.

    Raises:
        ValueError: For an option out of range.

    Reference:
        Schraudolph, "Local gain adaptation in stochastic gradient descent", ICANN 1999.
    """

    needs: ClassVar[str] = "graph"

    def __init__(
        self, params: Iterable[Any], lr: float, meta_lr: float = 0.02, decay: float = 0.99, floor: float = 0.5
    ) -> None:
        defaults = {
            "lr": in_range("lr", lr, low=0.0),
            "meta_lr": in_range("meta_lr", meta_lr, low=0.0),
            "decay": in_range("decay", decay, low=0.0, high=1.0),
            "floor": in_range("floor", floor, low=0.0, high=1.0),
        }
        if floor == 0:
            raise ValueError("floor: 0 would let a rate become zero for good; use a number above 0, such as 0.5")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step.

        Args:
            closure: Reevaluates the model, calls ``backward(create_graph=True)`` and returns the loss.

        Raises:
            RuntimeError: If no gradient carries a graph.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        live = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        live = [(parameter, group) for parameter, group in live if parameter.grad is not None]
        if not live:
            return loss
        for parameter, _ in live:
            if not self.state[parameter]:
                self.state[parameter].update(gain=torch.ones_like(parameter), trace=torch.zeros_like(parameter))
        parameters = [parameter for parameter, _ in live]
        curved = hessian_vector_product(parameters, [self.state[parameter]["trace"] for parameter in parameters])
        for (parameter, group), product in zip(live, curved, strict=True):
            gain, trace = self.state[parameter]["gain"], self.state[parameter]["trace"]
            gradient = parameter.grad.detach()
            gain.mul_((1 - group["meta_lr"] * trace * gradient).clamp_(min=group["floor"]))
            rate = group["lr"] * gain
            parameter.sub_(rate * gradient)
            trace.mul_(group["decay"]).sub_(rate * (gradient + group["decay"] * product))
        return loss

    def applied_rates(self) -> dict[str, Tensor]:
        """Return for each parameter's name its rates, of its shape; only parameters that had a gradient are there."""
        return {
            name: group["lr"] * self.state[parameter]["gain"]
            for group in self.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
            if parameter in self.state
        }
