"""The three readings of Eq. 35 of arXiv 2008.07277: how one β is shared between levels.

The equation contradicts itself. It can mean averages over each node, plain sums with one β, or sums whose β grows
with the number of a level's nodes, as the proof of convergence has it (Eq. 39).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

READINGS = ("means", "sums", "scaled")
DEFAULT_READING = "sums"
"""What optimizers do that are told of none."""


def apply_reading(
    settings: Mapping[str, Any], parameters: Sequence[tuple[str, nn.Parameter]], reading: str
) -> dict[str, Any]:
    """Return an optimizer's settings with `hyper_lr` and `reduction` as a reading has them.

    Args:
        settings: With `levels` and one `hyper_lr`, β.
        parameters: Names and parameters of the model.
        reading: `means`: H averaged over a node; `sums`: H summed, β shared; `scaled`: H summed, β times the number of
            nodes of the level.

    Raises:
        ValueError: If the reading is unknown or a level cannot be counted.
    """
    if reading == "means":
        return {**settings, "reduction": "mean"}
    if reading == "sums":
        return dict(settings)
    if reading != "scaled":
        raise ValueError(f"reading must be one of {', '.join(READINGS)}, got {reading!r}")
    levels, beta = settings["levels"], float(settings["hyper_lr"])
    if unknown := [level for level in levels if level not in _COUNTS]:
        raise ValueError(
            f"reading=scaled cannot count the nodes of level {unknown[0]!r}: choose from {', '.join(_COUNTS)}"
        )
    return {**settings, "hyper_lr": {level: beta * _COUNTS[level](parameters) for level in levels}}


def _layers(parameters: Sequence[tuple[str, nn.Parameter]]) -> int:
    return len({name.rpartition(".")[0] or name for name, _ in parameters})


def _units(parameters: Sequence[tuple[str, nn.Parameter]]) -> int:
    # A bias belongs to its weight's units.
    return sum(len(parameter) for _, parameter in parameters if parameter.ndim > 1)


_COUNTS: Mapping[str, Callable[[Sequence[tuple[str, nn.Parameter]]], int]] = {
    "global": lambda parameters: 1,
    "layer": _layers,
    "unit": _units,
    "parameter": lambda parameters: sum(parameter.numel() for _, parameter in parameters),
}
