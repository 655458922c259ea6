"""Mechanic around Adam: the displacement since the start is scaled by a number that is learned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from multirate.lab.opponents.base import Opponent

BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
FIRST_LARGEST = 1e-6
"""m₀: positive, so that there is a first move."""


class MechanicAdam(Opponent):
    r"""Adam, its whole displacement Δ since the start scaled by s.

    .. math::
        h = \langle \Delta,\; g + \lambda\, s\, \tfrac{\|g\|}{\|x\|}\, x \rangle, \qquad
        \Delta \leftarrow \Delta + u, \qquad x \leftarrow x_0 + s\, \Delta

    u is Adam's step, and s the sum of six scales, one for each β, that h moves. The package of the authors,
    `mechanic-pytorch`, puts x after Adam's step into h, where the paper (and the authors' code for JAX) has the x at
    which g was taken; hence this class.

    Args:
        params: Parameters, or pairs of name and parameter.
        lr: Learning rate of Adam; Mechanic finds the scale that goes with it.
        betas: Adam's.
        eps: Keeps Adam's and Mechanic's quotients finite.
        s_decay: λ.
        s_init: The first s, about; small is right.

    Reference:
        Cutkosky, Defazio, Mehta: Mechanic: a learning rate tuner, 2023, Algorithm 1; starting values as in its code.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        s_decay: float = 1e-2,
        s_init: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "s_decay": s_decay, "s_init": s_init})

    def applied_rates(self) -> dict[str, Tensor]:
        """Return the scale times Adam's rate, by parameter name; empty before the first step."""
        scales = self._shared().get("scales")
        if scales is None:
            return {}
        return {name: scales.sum() * group["lr"] for group in self.param_groups for name in group["param_names"]}

    def _move(self, loss: Any) -> None:
        moving = list(self._with_gradients())
        if not moving:
            return
        for parameter, _, _ in moving:
            if "reference" not in self.state[parameter]:
                self._start(parameter)
        scale = self._tune(self._reward(moving))
        for parameter, gradient, group in moving:
            state = self.state[parameter]
            state["displacement"].sub_(self._direction(gradient, state, group) * group["lr"])
            parameter.copy_(state["reference"] + scale.to(parameter.dtype) * state["displacement"])

    def _start(self, parameter: Tensor) -> None:
        zeros = {name: torch.zeros_like(parameter) for name in ("displacement", "average", "square")}
        self.state[parameter].update(zeros, reference=parameter.clone(), step=0)

    def _shared(self) -> dict[str, Any]:
        # What belongs to no parameter lies with the first one, so that state_dict saves it.
        shared: dict[str, Any] = self.state[self.param_groups[0]["params"][0]]
        return shared

    def _reward(self, moving: list[tuple[Tensor, Tensor, dict[str, Any]]]) -> Tensor:
        """Return h."""
        options, shared = self.param_groups[0], self._shared()
        steepness, distance = _norm([g for _, g, _ in moving]), _norm([x for x, _, _ in moving])
        here = sum(((self.state[x]["displacement"] * x).sum() for x, _, _ in moving), torch.zeros_like(steepness))
        agreement = sum(((self.state[x]["displacement"] * g).sum() for x, g, _ in moving), torch.zeros_like(steepness))
        scale = shared["scales"].sum() if "scales" in shared else 0.0
        h: Tensor = agreement + options["s_decay"] * scale * steepness / (distance + options["eps"]) * here
        return h

    def _tune(self, h: Tensor) -> Tensor:
        """Bring the scales up to date and return their sum."""
        options, shared = self.param_groups[0], self._shared()
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        betas = h.new_tensor(BETAS)
        if "scales" not in shared:
            zeros = torch.zeros_like(betas)
            largest = torch.full_like(betas, FIRST_LARGEST)
            shared.update(scales=zeros, wealth=zeros.clone(), squares=zeros.clone(), largest=largest)
        shared["largest"] = torch.maximum(betas * shared["largest"], h.abs())
        shared["squares"] = betas.square() * shared["squares"] + h.square()
        shared["wealth"] = (betas * shared["wealth"] - shared["scales"] * h).clamp(min=0.0)
        stake = options["s_init"] / len(BETAS) * shared["largest"]
        shared["scales"] = (stake + shared["wealth"]) / (shared["squares"].sqrt() + options["eps"])
        scale: Tensor = shared["scales"].sum()
        return scale

    @staticmethod
    def _direction(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        state["step"] += 1
        state["average"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (state["square"] / (1 - beta2 ** state["step"])).sqrt() + group["eps"]
        direction: Tensor = state["average"] / (1 - beta1 ** state["step"]) / spread
        return direction


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt()
