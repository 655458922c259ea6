"""Accelerated gradient that drops its momentum when it overshoots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from multirate.lab.opponents.base import Opponent
from multirate.rules.base import in_range

SCHEMES = ("function", "gradient")


class AdaptiveRestart(Opponent):
    r"""Nesterov's accelerated gradient, restarted adaptively.

    .. math::
        x_{k+1} &= y_k - \eta \nabla f(y_k) \\
        \theta_{k+1}^2 &= (1 - \theta_{k+1}) \theta_k^2, \qquad
        \beta_{k+1} = \frac{\theta_k (1 - \theta_k)}{\theta_k^2 + \theta_{k+1}} \\
        y_{k+1} &= x_{k+1} + \beta_{k+1} (x_{k+1} - x_k)

    from :math:`\theta_0 = 1` on (Algorithm 1 with q = 0). The parameters hold :math:`y`. A restart drops the momentum
    and sets θ back to 1:

    * ``"gradient"``, when :math:`\nabla f(y_k)^\top (x_{k+1} - x_k) > 0`: then :math:`y_{k+1} = x_{k+1}` and
      :math:`\theta_{k+1} = 1`.
    * ``"function"``, when the loss grew. The paper compares f(x); training knows f(y), where the gradient is taken,
      and so :math:`f(y_k) > f(y_{k-1})` decides here, and the step at hand is the first after the restart:
      :math:`\theta_k = 1`, which makes :math:`\beta_{k+1} = 0`.

    The criteria are meant for exact gradients. On minibatches both react to noise: with losses of different batches
    ``"function"`` restarts about every second step, which leaves little momentum; ``"gradient"`` compares a batch's
    gradient with a step that mostly earlier batches made, and suffers less.

    Args:
        params: Parameters, named pairs or groups.
        lr: η, at most 1/L for a gradient with Lipschitz constant L.
        scheme: ``"gradient"`` or ``"function"``; for all groups, as all parameters restart together.

    Raises:
        ValueError: For an option out of range; from `step`, without a closure for ``scheme="function"``.

    Reference:
        O'Donoghue & Candès, "Adaptive restart for accelerated gradient schemes", Foundations of Computational
        Mathematics 15, 2015, arXiv 1204.3982, Algorithm 1 and section 3.2.
    """

    needs: ClassVar[str] = "loss"

    def __init__(self, params: Iterable[Any], lr: float, scheme: str = "gradient") -> None:
        if scheme not in SCHEMES:
            raise ValueError(f"scheme: {scheme!r} is unknown; use one of {', '.join(map(repr, SCHEMES))}")
        super().__init__(params, {"lr": in_range("lr", lr, low=0.0), "scheme": scheme})

    def _move(self, loss: Any) -> None:
        first = self.param_groups[0]["params"][0]
        # What belongs to no parameter lies with the first one, where torch's LBFGS keeps it too: state_dict saves it.
        shared = self.state[first]
        theta = shared.get("theta")
        if theta is None:
            theta = first.new_ones(())
        by_function = self.param_groups[0]["scheme"] == "function"
        if by_function:
            theta = self._restarted_if_grown(loss, theta, shared)
        next_theta = theta * ((theta.square() + 4).sqrt() - theta) / 2
        momentum = theta * (1 - theta) / (theta.square() + next_theta)

        moves, slope = self._gradient_steps(next_theta)
        if not by_function:
            overshot = slope > 0
            next_theta = torch.where(overshot, torch.ones_like(next_theta), next_theta)
            momentum = torch.where(overshot, torch.zeros_like(momentum), momentum)
        for parameter, advanced, change in moves:
            self.state[parameter]["iterate"].copy_(advanced)
            parameter.copy_(advanced + momentum * change)
        shared["theta"] = next_theta

    @staticmethod
    def _restarted_if_grown(loss: Any, theta: Tensor, shared: dict[str, Any]) -> Tensor:
        if loss is None:
            raise ValueError('closure: scheme="function" needs the loss; call step(lambda: loss)')
        value = torch.as_tensor(loss).detach().to(theta.device, theta.dtype, copy=True)
        grown = value > shared.get("previous_loss", value)
        shared["previous_loss"] = value
        return torch.where(grown, torch.ones_like(theta), theta)

    def _gradient_steps(self, like: Tensor) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
        """Return each parameter with x_{k+1} and x_{k+1} − x_k, and the slope ∇f(y_k)ᵀ(x_{k+1} − x_k) of all."""
        moves, slope = [], torch.zeros_like(like)
        for parameter, gradient, group in self._with_gradients():
            state = self.state[parameter]
            if "iterate" not in state:
                state["iterate"] = parameter.clone()
            advanced = parameter - group["lr"] * gradient
            change = advanced - state["iterate"]
            slope += (gradient * change).sum()
            moves.append((parameter, advanced, change))
        return moves, slope
