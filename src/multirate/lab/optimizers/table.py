"""The table of optimizers."""

from __future__ import annotations

from multirate.lab.optimizers.entry import OptimizerEntry
from multirate.lab.optimizers.fixed import FIXED
from multirate.lab.optimizers.hypergradient import HYPERGRADIENT
from multirate.lab.optimizers.learned_rates import LEARNED_RATES
from multirate.lab.optimizers.rate_free import RATE_FREE
from multirate.lab.optimizers.watching import WATCHING
from multirate.lab.registry import Registry

OPTIMIZERS: Registry[OptimizerEntry] = Registry(
    "optimizer", [*HYPERGRADIENT, *FIXED, *WATCHING, *LEARNED_RATES, *RATE_FREE]
)
