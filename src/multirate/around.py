"""An optimizer around another one: shared groups, one state dict."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor


class Around(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` that owns another one, shares its param groups and adds state of its own.

    Args:
        optimizer: The inner optimizer.

    Raises:
        ValueError: When it is not a ``torch.optim.Optimizer``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer: {optimizer!r} is not a torch.optim.Optimizer; construct one and pass it")
        self.optimizer = optimizer
        super().__init__(optimizer.param_groups, dict(optimizer.defaults))
        self.param_groups = optimizer.param_groups
        for group in self.param_groups:
            for parameter in group["params"]:
                self._state_of(parameter)

    @abstractmethod
    def _own_state(self, parameter: Tensor) -> dict[str, Any]:
        """The state this optimizer starts a parameter with."""

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        if parameter not in self.state:
            self.state[parameter] = self._own_state(parameter)
        state: dict[str, Any] = self.state[parameter]
        return state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the inner optimizer, which this one shares."""
        if self.param_groups is self.optimizer.param_groups:
            self.optimizer.add_param_group(param_group)
            for parameter in self.param_groups[-1]["params"]:
                self._state_of(parameter)
        else:
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """State of both optimizers, each parameter's in one dict, as checkpoint tools expect it."""
        inner, own = self.optimizer.state_dict(), super().state_dict()["state"]
        merged = {i: {**inner["state"].get(i, {}), **state} for i, state in own.items()}
        return {**inner, "state": {**inner["state"], **merged}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what :meth:`state_dict` returned, or a state of the inner optimizer alone."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        own_names = {name for parameter in parameters for name in self._state_of(parameter)}
        saved: dict[Any, dict[str, Any]] = state_dict["state"]
        inner = {i: {k: v for k, v in state.items() if k not in own_names} for i, state in saved.items()}
        self.optimizer.load_state_dict({**state_dict, "state": inner})
        self.param_groups = self.optimizer.param_groups
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        for parameter, i in zip(parameters, ids, strict=True):
            state = self._state_of(parameter)
            for name in own_names & set(saved.get(i, {})):
                state[name].copy_(saved[i][name])

    def __getstate__(self) -> dict[str, Any]:
        own = {k: v for k, v in self.__dict__.items() if not k.startswith("_optimizer_") and k != "step"}
        return {**own, **super().__getstate__()}
