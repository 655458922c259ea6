"""Incremental delta-bar-delta: a log-rate for every parameter from the diagonal of the Hessian."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from multirate.lab.opponents.base import GainAdaptation
from multirate.lab.opponents.curvature import hessian_vector_product, require_graph
from multirate.rules.base import in_range

CURVATURES = ("hutchinson", "exact")
LARGEST_CHANGE = 2.0
SMALLEST_LOG_GAIN = -10.0


class IDBD(GainAdaptation):
    r"""Gradient descent with a rate for every parameter, learned by incremental delta-bar-delta.

    Sutton's method, for a linear unit :math:`y = w^\top x` with error δ:

    .. math::
        \beta_i \leftarrow \beta_i + \theta \delta x_i h_i, \quad \alpha_i = e^{\beta_i}, \quad
        w_i \leftarrow w_i + \alpha_i \delta x_i, \quad
        h_i \leftarrow h_i [1 - \alpha_i x_i^2]^+ + \alpha_i \delta x_i

    For the loss :math:`\tfrac12 \delta^2` the gradient is :math:`g_i = -\delta x_i`, and :math:`x_i^2` is the Hessian's
    diagonal :math:`H_{ii}`. This is also how the method is derived: h is the derivative of w by β, with only the
    diagonal of the Hessian kept. Hence, for any model,

    .. math::
        \beta \leftarrow \beta - \theta g h, \quad \alpha = \eta e^{\beta}, \quad w \leftarrow w - \alpha g, \quad
        h \leftarrow h [1 - \alpha d]^+ - \alpha g

    elementwise with d the positive part of the diagonal (it can be negative only where the loss is not convex; h
    would grow without bound there):

    * ``curvature="exact"``: :math:`H_{ii}` itself. It costs a product with the Hessian for every number in the
      parameters, and is meant for linear units and other small models, where it is Sutton's method to the letter.
    * ``curvature="hutchinson"``: the estimate :math:`z \odot Hz` with random signs z, one product a step. As one such
      estimate is noisy, and the positive part of noise is not zero on average, d is the positive part of its
      exponential average over the steps, corrected for its start at zero. The mean of the estimate is exact; the
      average lags behind a curvature that changes within :math:`1/(1 - \text{decay})` steps.

    As Sutton advises, β changes by at most 2 a step, and is kept from falling below −10.

    Args:
        params: Parameters, named pairs or groups.
        lr: η, the rate every parameter starts with. What is learned is a factor to it, so that schedules multiply.
        meta_lr: θ. The default is this library's choice; Sutton sets it per experiment.
        curvature: ``"hutchinson"`` or ``"exact"``; for all groups.
        decay: Of the average of the estimated diagonal; without effect for ``"exact"``.
        seed: Of the random signs.

    Raises:
        ValueError: For an option out of range.
        RuntimeError: From `step`, if no gradient carries a graph.

    Reference:
        Sutton, "Adapting bias by gradient descent: an incremental version of delta-bar-delta", AAAI 1992, Figure 2.
        The estimate: Bekas, Kokiopoulou & Saad, "An estimator for the diagonal of a matrix", 2007.
    """

    needs: ClassVar[str] = "graph"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        meta_lr: float = 1e-3,
        curvature: str = "hutchinson",
        decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        if curvature not in CURVATURES:
            raise ValueError(f"curvature: {curvature!r} is unknown; use one of {', '.join(map(repr, CURVATURES))}")
        defaults = {
            "lr": in_range("lr", lr, low=0.0),
            "meta_lr": in_range("meta_lr", meta_lr, low=0.0),
            "curvature": curvature,
            "decay": in_range("decay", decay, low=0.0, below=1.0),
            "seed": int(in_range("seed", seed, low=0.0, below=2.0**31)),
            "draws": 0,
        }
        super().__init__(params, defaults)

    def _move(self, loss: Any) -> None:
        live = list(self._with_gradients())
        if not live:
            return
        for parameter, _, _ in live:
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=0, log_gain=torch.zeros_like(parameter), trace=torch.zeros_like(parameter)
                )
        for (parameter, graph, group), curvature in zip(live, self._curvatures(live), strict=True):
            state, gradient = self.state[parameter], graph.detach()
            state["step"] += 1
            change = (-group["meta_lr"] * gradient * state["trace"]).clamp_(-LARGEST_CHANGE, LARGEST_CHANGE)
            state["log_gain"].add_(change).clamp_(min=SMALLEST_LOG_GAIN)
            rate = group["lr"] * state["log_gain"].exp()
            parameter.sub_(rate * gradient)
            kept = (1 - rate * curvature.clamp(min=0)).clamp_(min=0)
            state["trace"].mul_(kept).sub_(rate * gradient)

    def _gain(self, state: dict[str, Any]) -> Tensor:
        gain: Tensor = state["log_gain"].exp()
        return gain

    def _curvatures(self, live: Sequence[tuple[Tensor, Tensor, dict[str, Any]]]) -> list[Tensor]:
        parameters, gradients, _ = zip(*live, strict=True)
        if self.param_groups[0]["curvature"] == "exact":
            return exact_diagonals(parameters)
        signs = self._signs(parameters)
        require_graph(gradients)
        products = hessian_vector_product(gradients, parameters, signs)
        averages = []
        for (parameter, _, group), sign, product in zip(live, signs, products, strict=True):
            state = self.state[parameter]
            if "diagonal" not in state:
                state["diagonal"] = torch.zeros_like(parameter)
            state["diagonal"].lerp_(sign * product, 1 - group["decay"])
            averages.append(state["diagonal"] / (1 - group["decay"] ** (state["step"] + 1)))
        return averages

    def _signs(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        # A generator made anew from numbers that state_dict holds: an interrupted run resumes with the same signs.
        shared, device = self.param_groups[0], parameters[0].device
        shared["draws"] += 1
        # The CPU's generator heeds the lower 32 bits only; seeds lie a million steps apart.
        generator = torch.Generator(device).manual_seed((shared["seed"] * 1_000_003 + shared["draws"]) % 2**32)
        bits = [torch.randint(2, parameter.shape, generator=generator, device=device) for parameter in parameters]
        return [(2 * bit - 1).to(parameter) for bit, parameter in zip(bits, parameters, strict=True)]


def exact_diagonals(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the Hessian's diagonal in the parameters' shapes, one row of the Hessian after the other.

    Args:
        parameters: With gradients that ``backward(create_graph=True)`` made.

    Raises:
        RuntimeError: If no gradient carries a graph.
    """
    require_graph([parameter.grad for parameter in parameters if parameter.grad is not None])
    diagonals = []
    for parameter in parameters:
        diagonal = torch.zeros_like(parameter).flatten()
        if parameter.grad is not None and parameter.grad.requires_grad:
            for index in range(len(diagonal)):
                unit = torch.zeros_like(diagonal).index_fill_(0, torch.tensor(index, device=diagonal.device), 1.0)
                (row,) = torch.autograd.grad(
                    parameter.grad,
                    parameter,
                    unit.view_as(parameter),
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                diagonal[index] = row.flatten()[index]
        diagonals.append(diagonal.view_as(parameter))
    return diagonals
