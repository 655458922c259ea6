"""Mechanic around Adam, from its authors' package."""

from __future__ import annotations

import torch
from mechanic_pytorch import mechanize
from torch import Tensor


class MechanicAdam(mechanize(torch.optim.Adam, store_delta=True)):  # type: ignore[misc]
    """Adam whose displacement since the start is scaled by a number that Mechanic learns.

    Args:
        params: Parameters, or pairs of name and parameter.
        lr: Learning rate of Adam; Mechanic finds the scale that goes with it.

    Reference:
        Cutkosky, Defazio, Mehta: Mechanic: a learning rate tuner, 2023, Algorithm 1.
    """

    def applied_rates(self) -> dict[str, Tensor]:
        """Return the scale times Adam's rate, by parameter name."""
        learned = self.state.get("_mechanic", {}).get("s")
        scale = torch.zeros(()) if learned is None else learned.sum()
        return {name: scale * group["lr"] for group in self.param_groups for name in group.get("param_names", ())}
