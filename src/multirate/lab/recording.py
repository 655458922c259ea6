"""What an optimizer has learned, written down now and then while it trains."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from multirate.levels import GATES

Readings: TypeAlias = Mapping[str, "Tensor | Mapping[str, Tensor]"]
Series: TypeAlias = dict[str, list[float | None]]


@runtime_checkable
class AppliesRates(Protocol):
    """Optimizers, of any make, that tell the rate they really apply."""

    def applied_rates(self) -> Mapping[str, Tensor]:
        """Rate applied to every parameter, by its name."""
        ...


@runtime_checkable
class LearnsRates(AppliesRates, Protocol):
    """The read-only views that this library's optimizers offer."""

    def rates(self) -> Readings:
        """Learned rate of every node, by level."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """Combination weight of every level."""
        ...

    def agreement(self) -> Readings:
        """Last agreement of every node, by level."""
        ...


class Recorder:
    """Collects rates, weights and agreement of one optimizer.

    Levels finer than a tensor are kept as one mean a tensor: a curve for every unit would dwarf the rest. Gates, three
    or four of a recurrent layer, have a curve each.

    Args:
        model: The model that is trained.
        optimizer: Its optimizer, of any make.
        recorded: The curves of a recorder of the same training, to go on with.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, recorded: Mapping[str, Any] | None = None
    ) -> None:
        kept: Mapping[str, Any] = recorded or {}
        self._parameters = dict(model.named_parameters())
        self._optimizer = optimizer
        self._steps: list[int] = kept.get("rate_steps", [])
        self._layer_rates: Series = defaultdict(list, kept.get("layer_rates", {}))
        self._weights: Series = defaultdict(list, kept.get("weights", {}))
        self._rates = _by_level(kept.get("rates", {}))
        self._agreement = _by_level(kept.get("agreement", {}))

    def record(self, step: int) -> None:
        """Write down the present state, reached after `step` steps."""
        self._steps.append(step)
        for layer, rate in self._mean_by_layer(self._applied_rates()).items():
            # An optimizer may know its rates from the first step on only.
            missing = len(self._steps) - 1 - len(self._layer_rates[layer])
            self._layer_rates[layer] += [None] * missing + [rounded(rate)]
        if not isinstance(self._optimizer, LearnsRates):
            return
        for level, weight in self._optimizer.weights().items():
            self._weights[level].append(rounded(float(weight)))
        for readings, kept in (
            (self._optimizer.rates(), self._rates),
            (self._optimizer.agreement(), self._agreement),
        ):
            for level, nodes in readings.items():
                for label, values in ({"all": nodes} if isinstance(nodes, Tensor) else nodes).items():
                    for node, value in _by_node(level, label, values).items():
                        kept[level][node].append(rounded(value))

    def curves(self) -> dict[str, Any]:
        """Return everything recorded, as plain lists beside the list of steps."""
        return {
            "rate_steps": self._steps,
            "layer_rates": dict(self._layer_rates),
            "weights": dict(self._weights),
            "rates": {level: dict(nodes) for level, nodes in self._rates.items()},
            "agreement": {level: dict(nodes) for level, nodes in self._agreement.items()},
        }

    def _applied_rates(self) -> dict[str, float]:
        """Mean applied rate of every parameter tensor."""
        if isinstance(self._optimizer, AppliesRates):
            applied = self._optimizer.applied_rates()
            return {name: float(applied[name].double().mean()) for name in self._parameters if name in applied}
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        return {
            names[id(parameter)]: _group_rate(group)
            for group in self._optimizer.param_groups
            for parameter in group["params"]
        }

    def _mean_by_layer(self, rates: Mapping[str, float]) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        for name, rate in rates.items():
            layer = name.rpartition(".")[0] or name
            elements = self._parameters[name].numel()
            sums[layer] += rate * elements
            counts[layer] += elements
        return {layer: sums[layer] / counts[layer] for layer in sums if counts[layer]}


def _by_node(level: str, label: str, values: Tensor) -> dict[str, float]:
    """Return what is kept of the values under one label of a level."""
    if level == "gate" and values.ndim:
        gates = GATES[len(values)]
        return {f"{label} {gate}": value for gate, value in zip(gates, values.tolist(), strict=True)}
    return {label: float(values.double().mean())}


def _by_level(kept: Mapping[str, Series]) -> dict[str, Series]:
    levels: dict[str, Series] = defaultdict(lambda: defaultdict(list))
    levels.update({level: defaultdict(list, nodes) for level, nodes in kept.items()})
    return levels


def rounded(value: float) -> float | None:
    """Return six significant digits of a number, or None where JSON has no word for it."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _group_rate(group: Mapping[str, Any]) -> float:
    # Distance-based optimizers keep the estimate they multiply `lr` with as `d`; Schedule-Free keeps the
    # warmed-up rate as `scheduled_lr`.
    return float(group.get("scheduled_lr", group["lr"])) * float(group.get("d", 1.0))
