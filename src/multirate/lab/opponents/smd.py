"""Stochastic meta-descent: a rate for every parameter from Hessian-vector products."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from multirate.lab.opponents.base import GainAdaptation
from multirate.lab.opponents.curvature import hessian_vector_product, require_graph
from multirate.rules.base import in_range


class SMD(GainAdaptation):
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
        RuntimeError: From `step`, if no gradient carries a graph.

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

    def _move(self, loss: Any) -> None:
        live = list(self._with_gradients())
        if not live:
            return
        for parameter, _, _ in live:
            if not self.state[parameter]:
                self.state[parameter].update(gain=torch.ones_like(parameter), trace=torch.zeros_like(parameter))
        parameters, gradients, _ = zip(*live, strict=True)
        require_graph(gradients)
        traces = [self.state[parameter]["trace"] for parameter in parameters]
        products = hessian_vector_product(gradients, parameters, traces)
        for (parameter, graph, group), product in zip(live, products, strict=True):
            gain, trace = self.state[parameter]["gain"], self.state[parameter]["trace"]
            gradient = graph.detach()
            gain.mul_((1 - group["meta_lr"] * trace * gradient).clamp_(min=group["floor"]))
            rate = group["lr"] * gain
            parameter.sub_(rate * gradient)
            trace.mul_(group["decay"]).sub_(rate * (gradient + group["decay"] * product))

    def _gain(self, state: dict[str, Any]) -> Tensor:
        gain: Tensor = state["gain"]
        return gain
