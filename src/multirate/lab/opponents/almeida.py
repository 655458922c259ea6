"""A rate for every parameter from the correlation of successive gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from multirate.lab.opponents.base import GainAdaptation
from multirate.rules.base import in_range


class Almeida(GainAdaptation):
    r"""Gradient descent, each parameter's rate following the normalised correlation of its successive gradients.

    .. math::
        v_t &= \gamma v_{t-1} + (1 - \gamma) g_t^2, \qquad v_1 = g_1^2 \\
        \eta_t &= \eta_{t-1} \max\left(\tfrac12, 1 + \kappa \frac{g_t g_{t-1}}{v_t}\right) \\
        w_{t+1} &= w_t - \eta_t g_t

    elementwise, with :math:`\eta_1` = ``lr``; where v is zero, so is the correlation. The maximum is not in the
    paper's equation; it keeps the rate positive, as Schraudolph (1999) does when he compares with this method. It
    can act only for :math:`\kappa > (1-\gamma)\sqrt\gamma`, as the quotient stays within
    :math:`\pm 1 / (2 (1-\gamma) \sqrt\gamma)`.

    Args:
        params: Parameters, named pairs or groups.
        lr: The rate every parameter starts with. What is learned is a factor to it, so that schedules multiply.
        meta_lr: κ. The default is this library's choice.
        decay: γ. The default is this library's choice.

    Raises:
        ValueError: For an option out of range.

    Reference:
        Almeida, Langlois, Amaral & Plakhov, "Parameter adaptation in stochastic optimization", in: Saad (editor),
        On-Line Learning in Neural Networks, Cambridge University Press 1998, equation 4.6.
    """

    def __init__(self, params: Iterable[Any], lr: float, meta_lr: float = 0.01, decay: float = 0.9) -> None:
        defaults = {
            "lr": in_range("lr", lr, low=0.0),
            "meta_lr": in_range("meta_lr", meta_lr, low=0.0),
            "decay": in_range("decay", decay, low=0.0, below=1.0),
        }
        super().__init__(params, defaults)

    def _move(self, loss: Any) -> None:
        for parameter, gradient, group in self._with_gradients():
            state = self.state[parameter]
            if not state:
                state["gain"] = torch.ones_like(parameter)
                state["squares"] = gradient.square()
            else:
                squares = state["squares"].lerp_(gradient.square(), 1 - group["decay"])
                product = gradient * state["previous_gradient"]
                correlation = torch.where(squares > 0, product / squares, torch.zeros_like(product))
                state["gain"].mul_((1 + group["meta_lr"] * correlation).clamp_(min=0.5))
            state["previous_gradient"] = gradient.clone()
            parameter.sub_(group["lr"] * state["gain"] * gradient)

    def _gain(self, state: dict[str, Any]) -> Tensor:
        gain: Tensor = state["gain"]
        return gain
