"""One line of the table of optimizers."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from multirate.lab.readings import apply_reading
from multirate.lab.variants import Settings

HOW_NOT_WHAT = frozenset(
    {"foreach", "fused", "capturable", "differentiable", "maximize", "in_backward", "fsdp_in_use", "log_every"}
)
"""Constructor options that choose how a step is computed, not what it is: left out of defaults unless registered."""


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@dataclass(frozen=True)
class OptimizerEntry:
    """One line of the table of optimizers.

    Attributes:
        name: What a user types.
        constructor: `module:class`. A string, so that listing the table imports nobody's package.
        description: One line.
        citation: Where the method comes from.
        settings: Keyword arguments of the constructor.
        extra: The extra of this package that installs what the constructor needs, if something is needed.
        wraps: `module:class` of another package that the constructor, written here, is built on.
    """

    name: str
    constructor: str
    description: str
    citation: str
    settings: Settings = field(default_factory=dict)
    extra: str | None = None
    wraps: str | None = None

    @property
    def package(self) -> str:
        """The package that the method comes from: the one that is wrapped, otherwise the constructor's own."""
        return (self.wraps or self.constructor).partition(":")[0].partition(".")[0]

    @property
    def source(self) -> str:
        """Where the code of the method is, in words."""
        return self.constructor if self.wraps is None else f"{self.wraps}, wrapped by {self.constructor}"

    @property
    def installed(self) -> bool:
        """Whether that package is there."""
        return importlib.util.find_spec(self.package) is not None

    def version(self) -> dict[str, str]:
        """Return the version of the package that the optimizer comes from; nothing for torch and this one."""
        distributions = _distributions().get(self.package, [])
        return {name: importlib.metadata.version(name) for name in distributions if name not in ("torch", "multirate")}

    def defaults(self) -> dict[str, Any]:
        """Return every option with the value that it has unless told otherwise: the constructor's, or the table's own.

        Without the package that the constructor needs only the table's own are known.
        """
        if not self.installed:
            return dict(self.settings)
        options = list(inspect.signature(self._constructor()).parameters.values())[1:]
        own = {
            option.name: option.default
            for option in options
            if option.default is not option.empty and option.name not in HOW_NOT_WHAT
        }
        return {**own, **self.settings}

    def _constructor(self) -> Any:
        module, _, attribute = self.constructor.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]], settings: Settings) -> torch.optim.Optimizer:
        """Construct the optimizer.

        Args:
            parameters: Names and parameters, as from `model.named_parameters()`.
            settings: Keyword arguments; nothing is added to them.
        """
        named = list(parameters)
        options: dict[str, Any] = dict(settings)
        if "reading" in options:
            options = apply_reading(options, named, options.pop("reading"))
        optimizer: torch.optim.Optimizer = self._constructor()(named, **options)
        return optimizer
