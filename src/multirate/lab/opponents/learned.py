"""A learned optimizer: a small recurrent network, trained beforehand, turns gradients into steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from multirate.lab.opponents.base import Opponent

SHIPPED_WEIGHTS = Path(__file__).with_name("learned_weights.pt")

HIDDEN_UNITS = 20
OUTPUT_SCALE = 0.1
LOG_RANGE = 10.0


def preprocess(gradient: Tensor) -> Tensor:
    """Split a gradient into its magnitude and its sign, both near 1 in size.

    With p = 10, a coordinate g becomes (log|g| / p, sgn g) where |g| ≥ e^-p, and (-1, e^p g) elsewhere.

    Args:
        gradient: Shape (coordinates,).

    Returns:
        Shape (coordinates, 2).

    Reference:
        Andrychowicz et al. 2016, appendix A.
    """
    magnitude = gradient.abs()
    smallest = math.exp(-LOG_RANGE)
    large = magnitude >= smallest
    logarithm = magnitude.clamp(min=smallest).log() / LOG_RANGE
    return torch.stack(
        [
            torch.where(large, logarithm, -1.0),
            torch.where(large, gradient.sign(), gradient / smallest),
        ],
        dim=1,
    )


class CoordinatewiseLSTM(nn.Module):
    """Two LSTM layers of 20 units and a linear output, run on every coordinate alone with the same weights.

    Reference:
        Andrychowicz et al. 2016, section 2.1 and figure 3.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTMCell(2, HIDDEN_UNITS)
        self.second = nn.LSTMCell(HIDDEN_UNITS, HIDDEN_UNITS)
        self.output = nn.Linear(HIDDEN_UNITS, 1)

    def start(self, coordinates: int) -> Tensor:
        """Return the hidden state before the first step, shape (4, coordinates, 20).

        The four are the output and the cell of the first layer, then those of the second.
        """
        return self.output.weight.new_zeros(4, coordinates, HIDDEN_UNITS)

    def forward(self, gradient: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the unscaled update, shape (coordinates,), and the new hidden state.

        Args:
            gradient: Shape (coordinates,).
            hidden: Shape (4, coordinates, 20), from `start` or the step before.
        """
        first = self.first(preprocess(gradient), (hidden[0], hidden[1]))
        second = self.second(first[0], (hidden[2], hidden[3]))
        return self.output(second[0]).squeeze(1), torch.stack([*first, *second])


class LearnedOptimizer(Opponent):
    r"""Learning to learn by gradient descent by gradient descent.

    .. math:: \theta_{t+1} = \theta_t + \text{scale} \cdot m(g_t, h_t; \phi)

    The weights φ of the LSTM m were learned beforehand, once, on small tasks (see
    :mod:`multirate.lab.opponents.learned_training`), for runs of 100 steps. Such networks are known to fail far
    beyond that horizon and on other networks (Lv et al. 2017; Wichrowska et al. 2017), and so does this one: on new
    quadratics it beats the best rate of Adam for 100 steps, then stalls near a loss of 2e-3, while tuned SGD and
    Adam fall by orders of magnitude below it within 2,000 steps; a wider network with rectified units it hardly
    trains at all. It does not always fail: on the digits network it was trained on its loss still falls after
    2,000 steps. The hidden state takes 80 numbers for every parameter.

    Args:
        params: Parameters, named or not, or groups of them.
        scale: Factor on the output of the network; the network was trained with 0.1, as in the paper. It is kept as
            ``group["lr"]``, so that a schedule can act on it.
        weights: File with the weights of another network, as :mod:`~multirate.lab.opponents.learned_training`
            writes it; ``None`` for the one that is shipped.

    Raises:
        ValueError: If ``scale`` is negative or not finite.

    References:
        Andrychowicz et al.: Learning to learn by gradient descent by gradient descent, NeurIPS 2016
        (arXiv 1606.04474).
        Lv, Jiang, Li: Learning Gradient Descent: Better Generalization and Longer Horizons, ICML 2017
        (arXiv 1703.03633).
        Wichrowska et al.: Learned Optimizers that Scale and Generalize, ICML 2017 (arXiv 1703.04813).
    """

    def __init__(self, params: ParamsT, scale: float = OUTPUT_SCALE, weights: Path | None = None) -> None:
        if not 0 <= scale < math.inf:
            raise ValueError(f"scale: {scale!r} must be a finite number, at least 0; the paper's is {OUTPUT_SCALE}")
        super().__init__(params, {"lr": scale})
        self.network = CoordinatewiseLSTM()
        self.network.load_state_dict(torch.load(weights or SHIPPED_WEIGHTS, weights_only=True, map_location="cpu"))
        self.network.to(self.param_groups[0]["params"][0].device)

    def __getstate__(self) -> dict[str, Any]:
        # torch leaves out attributes of a subclass when an optimizer is copied or pickled.
        return {**super().__getstate__(), "network": self.network}

    def _move(self, loss: Any) -> None:
        for parameter, gradient, group in self._with_gradients():
            state = self.state[parameter]
            if "hidden" not in state:
                state["hidden"] = self.network.start(parameter.numel())
            # load_state_dict gives the state the type of its parameter; the network stays in single precision.
            hidden = state["hidden"].to(torch.float32)
            update, state["hidden"] = self.network(gradient.flatten().to(torch.float32), hidden)
            parameter.add_(update.view_as(parameter).to(parameter.dtype), alpha=group["lr"])
