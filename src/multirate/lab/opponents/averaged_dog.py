"""DoG from its authors' package, evaluated at the average of its iterates as they recommend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from dog import DoG, PolynomialDecayAverager
from torch import Tensor, nn


class AveragedDoG(DoG):  # type: ignore[misc]
    """DoG whose `eval()` puts the averaged parameters into the model, and whose `train()` takes them out again.

    The average is `x̄_t = (1 − (γ+1)/(t+γ)) x̄_{t−1} + (γ+1)/(t+γ) x_t`. Buffers, such as those of batch norm, stay the
    last ones.

    Args:
        params: Parameters, or pairs of name and parameter.
        lr: The factor c of the paper; 1 is right.
        reps_rel: Length of the first step, relative to the parameters.
        weight_decay: Coupled weight decay.
        gamma: γ of the average.

    Reference:
        Ivgi, Hinder, Carmon: DoG is SGD's best friend, 2023, Eqs. 1 and 2, and section 4.1 for the average.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        reps_rel: float = 1e-6,
        weight_decay: float = 0.0,
        gamma: float = 8.0,
    ) -> None:
        super().__init__(params, reps_rel=reps_rel, lr=lr, weight_decay=weight_decay)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        self.averager = PolynomialDecayAverager(nn.ParameterList(parameters), gamma=gamma)
        self.training_point: list[Tensor] | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = super().step(closure)
        self.averager.step()
        return loss

    @torch.no_grad()
    def eval(self) -> None:
        """Move the model to the average; before the first step that is where it is."""
        if self.training_point is None:
            parameters = list(self.averager.model)
            self.training_point = [parameter.detach().clone() for parameter in parameters]
            for parameter, average in zip(parameters, self.averager.av_model, strict=True):
                parameter.copy_(average)

    @torch.no_grad()
    def train(self) -> None:
        """Move the model back to where it is trained."""
        if self.training_point is not None:
            for parameter, kept in zip(self.averager.model, self.training_point, strict=True):
                parameter.copy_(kept)
            self.training_point = None

    def applied_rates(self) -> dict[str, Tensor]:
        """Return the rate of the last step, by parameter name."""
        return {
            name: rate
            for group in self.param_groups
            if "eta" in group
            for name, rate in zip(group.get("param_names", ()), _as_list(group["eta"], group["params"]), strict=True)
        }


def _as_list(rates: Any, parameters: list[Tensor]) -> list[Tensor]:
    shared = len(rates) == 1
    return [torch.as_tensor(rates[0 if shared else index]) for index in range(len(parameters))]
