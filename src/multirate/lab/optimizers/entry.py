"""One line of the table of optimizers."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from multirate.lab.readings import apply_reading
from multirate.lab.variants import Settings


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
        needs_package: That package, where it is not the constructor's own.
    """

    name: str
    constructor: str
    description: str
    citation: str
    settings: Settings = field(default_factory=dict)
    extra: str | None = None
    needs_package: str | None = None

    @property
    def package(self) -> str:
        """The package that the constructor needs."""
        return self.needs_package or self.constructor.partition(":")[0].partition(".")[0]

    @property
    def installed(self) -> bool:
        """Whether that package is there."""
        return importlib.util.find_spec(self.package) is not None

    def version(self) -> dict[str, str]:
        """Return the version of the package that the optimizer comes from; nothing for torch and this one."""
        distributions = _distributions().get(self.package, [])
        return {name: importlib.metadata.version(name) for name in distributions if name not in ("torch", "multirate")}

    def build(self, parameters: Iterable[tuple[str, nn.Parameter]], settings: Settings) -> torch.optim.Optimizer:
        """Construct the optimizer.

        Args:
            parameters: Names and parameters, as from `model.named_parameters()`.
            settings: Keyword arguments; nothing is added to them.
        """
        module, _, attribute = self.constructor.partition(":")
        constructor: Any = getattr(importlib.import_module(module), attribute)
        named = list(parameters)
        options: dict[str, Any] = dict(settings)
        if "reading" in options:
            options = apply_reading(options, named, options.pop("reading"))
        optimizer: torch.optim.Optimizer = constructor(named, **options)
        return optimizer
