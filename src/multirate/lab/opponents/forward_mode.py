"""Real-time hyperparameter optimization: the rate's derivative is carried forward along the whole run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from multirate.lab.opponents.base import Opponent
from multirate.lab.opponents.curvature import hessian_vector_product

# One update at most doubles or halves the rate: the size of a hypergradient says little about how far it holds.
LARGEST_LOG_CHANGE = math.log(2.0)


class ForwardModeSGD(Opponent):
    r"""SGD with momentum whose learning rate follows its forward-mode hypergradient (RTHO).

    .. math::
        v_{t+1} = \mu v_t + g_t, \qquad \theta_{t+1} = \theta_t - \alpha f_t v_{t+1}

    with α the rate of the group and f a learned factor, 1 at first and shared by all groups. The tangents are the
    derivatives with respect to a change of f common to all steps so far:

    .. math::
        \dot v_{t+1} = \mu \dot v_t + H_t \dot\theta_t, \qquad
        \dot\theta_{t+1} = \dot\theta_t - \alpha v_{t+1} - \alpha f_t \dot v_{t+1}

    so that :math:`\partial\theta_t / \partial\alpha = \dot\theta_t / \alpha`, at the price of one Hessian-vector
    product a step. Every ``interval`` steps, before the parameters move,

    .. math:: \log f \leftarrow \log f - \eta f \langle g_t, \dot\theta_t \rangle

    The paper measures a validation error here; as in most comparisons with it, the gradient of the training batch
    takes its place, which asks for no held-out data but is short of being independent. The paper projects the rate
    onto positive numbers; here its logarithm is learned, and one update changes it by a factor of 2 at most.

    Args:
        params: Parameters, named or not, or groups of them.
        lr: The rate α, positive; a schedule may rewrite it and the learned factor stays.
        hyper_lr: The rate η of log f, at least 0; 0 leaves plain SGD.
        momentum: The momentum μ, in [0, 1).
        interval: Steps between two updates of the factor, at least 1.

    Raises:
        ValueError: If an option is out of its range; from `step`, if the gradients carry no graph.

    Reference:
        Franceschi, Donini, Frasconi, Pontil: Forward and Reverse Gradient-Based Hyperparameter Optimization,
        ICML 2017 (arXiv 1703.01785), algorithm 2 (Forward-HG) in its real-time variant.
    """

    needs: ClassVar[str] = "graph"

    def __init__(
        self, params: ParamsT, lr: float = 0.01, hyper_lr: float = 1e-3, momentum: float = 0.9, interval: int = 1
    ) -> None:
        if not 0 < lr < math.inf:
            raise ValueError(f"lr: {lr!r} must be a positive number; the learned factor multiplies it")
        if not 0 <= hyper_lr < math.inf:
            raise ValueError(f"hyper_lr: {hyper_lr!r} must be a finite number, at least 0; 0 leaves plain SGD")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: {momentum!r} must lie in [0, 1), or old gradients never fade")
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ValueError(f"interval: {interval!r} must be a whole number of steps, at least 1")
        defaults = {"lr": lr, "hyper_lr": hyper_lr, "momentum": momentum, "interval": interval}
        super().__init__(params, {**defaults, "log_factor": 0.0, "steps": 0})

    def applied_rates(self) -> dict[str, Tensor]:
        """Return the rate of every named parameter."""
        return {
            name: torch.tensor(group["lr"] * math.exp(group["log_factor"]))
            for group in self.param_groups
            for name in group.get("param_names", ())
        }

    def _move(self, loss: Any) -> None:
        """Update the factor, then the parameters and their tangents."""
        live = list(self._with_gradients())
        if not live:
            return
        parameters, gradients, _ = zip(*live, strict=True)
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    name: torch.zeros_like(parameter) for name in ("momentum_buffer", "tangent", "momentum_tangent")
                }
        if not any(gradient.requires_grad for gradient in gradients):
            raise ValueError("gradients: they carry no graph; call loss.backward(create_graph=True)")
        tangents = [self.state[parameter]["tangent"] for parameter in parameters]
        self._update_factor(gradients, tangents)
        products = hessian_vector_product(gradients, parameters, tangents)
        for (parameter, gradient, group), product in zip(live, products, strict=True):
            rate, state = group["lr"] * math.exp(group["log_factor"]), self.state[parameter]
            state["momentum_buffer"].mul_(group["momentum"]).add_(gradient.detach())
            state["momentum_tangent"].mul_(group["momentum"]).add_(product)
            state["tangent"].sub_(group["lr"] * state["momentum_buffer"] + rate * state["momentum_tangent"])
            parameter.sub_(rate * state["momentum_buffer"])

    def _update_factor(self, gradients: Sequence[Tensor], tangents: Sequence[Tensor]) -> None:
        """Move the logarithm of the factor against its hypergradient, where an update is due."""
        first = self.param_groups[0]
        log_factor: float = first["log_factor"]
        # The first step has no tangent yet.
        if first["steps"] > 0 and first["steps"] % first["interval"] == 0 and first["hyper_lr"] > 0:
            pairs = zip(gradients, tangents, strict=True)
            hypergradient = torch.stack([(gradient * tangent).sum() for gradient, tangent in pairs]).sum()
            change = -first["hyper_lr"] * math.exp(log_factor) * float(hypergradient)
            # A run that has diverged keeps its rate, and shows in its loss.
            if math.isfinite(change):
                log_factor += min(max(change, -LARGEST_LOG_CHANGE), LARGEST_LOG_CHANGE)
        for group in self.param_groups:
            group["log_factor"] = log_factor
            group["steps"] += 1
