"""L4: a rate at which the linearised loss would come a fixed part of the way to its minimum."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from multirate.lab.opponents.base import Opponent
from multirate.rules.base import in_range

State: TypeAlias = dict[str, Any]


class _L4(Opponent):
    """The rate of L4 for directions that a subclass chooses."""

    needs: ClassVar[str] = "loss"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        minimum_factor: float,
        initial_factor: float,
        forgetting: float,
        eps: float,
        momentum: float,
        weight_decay: float,
        own: dict[str, float],
    ) -> None:
        defaults = {
            "lr": in_range("lr", lr, low=0.0),
            "minimum_factor": in_range("minimum_factor", minimum_factor, low=0.0, below=1.0),
            "initial_factor": in_range("initial_factor", initial_factor, low=0.0, high=1.0),
            "forgetting": in_range("forgetting", forgetting, low=0.0, below=1.0),
            "eps": in_range("eps", eps, low=0.0),
            "momentum": in_range("momentum", momentum, low=0.0, below=1.0),
            "weight_decay": in_range("weight_decay", weight_decay, low=0.0),
        }
        super().__init__(params, {**defaults, **own})

    @abstractmethod
    def _direction(self, average: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
        """Return v for one parameter from the bias-corrected average of its gradients and the newest gradient."""

    def _move(self, loss: Any) -> None:
        if loss is None:
            raise ValueError("closure: L4 needs the loss; call step(lambda: loss)")
        moves: list[tuple[Tensor, Tensor, dict[str, Any]]] = []
        first = self.param_groups[0]["params"][0]
        objective = torch.as_tensor(loss, device=first.device).detach().to(first.dtype, copy=True)
        decrease = torch.zeros_like(objective)
        for parameter, gradient, group in self._with_gradients():
            if group["weight_decay"]:
                gradient = gradient.add(parameter, alpha=group["weight_decay"])
                objective += group["weight_decay"] / 2 * parameter.square().sum()
            state = self.state[parameter]
            average = self._average(gradient, state, group["momentum"])
            direction = self._direction(average, gradient, state, group)
            decrease += (average * direction).sum()
            moves.append((parameter, direction, group))
        if moves:
            factor = self._factor(objective, decrease)
            for parameter, direction, group in moves:
                parameter.sub_(direction * (group["lr"] * factor))

    def applied_rates(self) -> dict[str, Tensor]:
        """Return for each parameter's name the rate of the last step; empty before the first."""
        factor = self._shared_state().get("rate_factor")
        if factor is None:
            return {}
        return {name: group["lr"] * factor for group in self.param_groups for name in group["param_names"]}

    @staticmethod
    def _average(gradient: Tensor, state: State, decay: float) -> Tensor:
        if "average" not in state:
            state.update(step=0, average=torch.zeros_like(gradient))
        state["step"] += 1
        state["average"].lerp_(gradient, 1 - decay)
        corrected: Tensor = state["average"] / (1 - decay ** state["step"])
        return corrected

    def _shared_state(self) -> State:
        # What belongs to no parameter lies with the first one, where torch's LBFGS keeps it too: state_dict saves it.
        shared: State = self.state[self.param_groups[0]["params"][0]]
        return shared

    def _factor(self, loss: Tensor, decrease: Tensor) -> Tensor:
        """Return (L − γ L_min) / (gᵀv + ε), having brought L_min up to date."""
        options, shared = self.param_groups[0], self._shared_state()
        if "minimum_loss" in shared:
            minimum = torch.minimum(shared["minimum_loss"], loss)
        else:
            minimum = options["initial_factor"] * loss
        factor: Tensor = (loss - options["minimum_factor"] * minimum) / (decrease + options["eps"])
        shared["minimum_loss"] = minimum * (1 + options["forgetting"])
        shared["rate_factor"] = factor
        return factor


class L4SGD(_L4):
    r"""Momentum at the rate of L4 ("L4Mom").

    .. math::
        g_t &= \frac{1-\beta}{1-\beta^t} \sum_{s \le t} \beta^{t-s} \nabla L_s, \qquad v_t = g_t \\
        L_{min} &\leftarrow \min(L_{min}, L_t) \quad \text{(at the first step } \gamma_0 L_1) \\
        \theta_{t+1} &= \theta_t - \alpha \frac{L_t - \gamma L_{min}}{g_t^\top v_t + \epsilon} v_t, \qquad
        L_{min} \leftarrow (1 + \tau) L_{min}

    The inner product runs over all parameters: there is one rate. It presumes a loss that is nowhere negative.
    ``minimum_factor``, ``initial_factor``, ``forgetting`` and ``eps`` are therefore the same for all groups; the
    first group's count. The defaults are those of the authors' code.

    Args:
        params: Parameters, named pairs or groups.
        lr: α, the part of the way to the minimum that a step aims at. Schedules multiply it; the rate in front of
            v is what `applied_rates` returns.
        minimum_factor: γ, what part of the lowest loss seen is taken for reachable.
        initial_factor: γ₀, what part of the first loss L_min starts at.
        forgetting: τ, the relative growth of L_min a step.
        eps: ε, in the units of a squared gradient.
        momentum: β.
        weight_decay: Coupled L2, λ: half of λ times the squared norm is added to the loss too, as in the paper's
            experiments, or loss and gradient would belong to different functions.

    Raises:
        ValueError: For an option out of range; from `step`, without a closure.

    Reference:
        Rolínek & Martius, "L4: Practical loss-based stepsize adaptation for deep learning", 2018, arXiv 1802.05074,
        Algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.15,
        minimum_factor: float = 0.9,
        initial_factor: float = 0.75,
        forgetting: float = 1e-3,
        eps: float = 1e-12,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, lr, minimum_factor, initial_factor, forgetting, eps, momentum, weight_decay, own={}
        )  # fmt: skip

    def _direction(self, average: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
        return average


class L4Adam(_L4):
    r"""Adam's direction at the rate of L4.

    .. math::
        v_t = \frac{g_t}{\sqrt{s_t} + \epsilon_A}, \qquad
        s_t = \frac{1-\beta_2}{1-\beta_2^t} \sum_{r \le t} \beta_2^{t-r} (\nabla L_r)^2

    and everything else as in `L4SGD`, whose options mean the same here. :math:`g_t` is both the estimate of the
    gradient and Adam's first moment.

    Args:
        params: Parameters, named pairs or groups.
        lr: α.
        minimum_factor: γ.
        initial_factor: γ₀.
        forgetting: τ.
        eps: ε.
        betas: Decays of Adam's moments; the first is the momentum's.
        adam_eps: :math:`\epsilon_A`, in the units of a gradient.
        weight_decay: Coupled L2.

    Raises:
        ValueError: For an option out of range; from `step`, without a closure.

    Reference:
        Rolínek & Martius, "L4: Practical loss-based stepsize adaptation for deep learning", 2018, arXiv 1802.05074,
        Algorithm 1; ``adam_eps`` is that of the authors' code.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.15,
        minimum_factor: float = 0.9,
        initial_factor: float = 0.75,
        forgetting: float = 1e-3,
        eps: float = 1e-12,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-4,
        weight_decay: float = 0.0,
    ) -> None:
        own = {
            "beta2": in_range("betas[1]", betas[1], low=0.0, below=1.0),
            "adam_eps": in_range("adam_eps", adam_eps, low=0.0),
        }
        momentum = in_range("betas[0]", betas[0], low=0.0, below=1.0)
        super().__init__(
            params, lr, minimum_factor, initial_factor, forgetting, eps, momentum, weight_decay, own=own
        )  # fmt: skip

    def _direction(self, average: Tensor, gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
        if "squares" not in state:
            state["squares"] = torch.zeros_like(gradient)
        state["squares"].lerp_(gradient.square(), 1 - group["beta2"])
        corrected = state["squares"] / (1 - group["beta2"] ** state["step"])
        direction: Tensor = average / (corrected.sqrt() + group["adam_eps"])
        return direction
