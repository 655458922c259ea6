"""Rates, or momentum, that a rule sets while it watches the run: line searches, restarts and statistical tests."""

from __future__ import annotations

from multirate.lab.optimizers.entry import OptimizerEntry

_L4 = "Rolínek & Martius 2018, arXiv 1802.05074"
_RESTART = "O'Donoghue & Candès 2015, arXiv 1204.3982"
_SASA = "Lang et al. 2019, arXiv 1909.09785; Zhang et al. 2020, arXiv 2002.10597"

WATCHING = [
    OptimizerEntry(
        name="momentum-l4",
        constructor="multirate.lab.opponents.l4:L4SGD",
        description="momentum with a rate from the linearised loss",
        citation=_L4,
        settings={"lr": 0.15},
    ),
    OptimizerEntry(
        name="adam-l4",
        constructor="multirate.lab.opponents.l4:L4Adam",
        description="Adam with a rate from the linearised loss",
        citation=_L4,
        settings={"lr": 0.15},
    ),
    OptimizerEntry(
        name="restart-gradient",
        constructor="multirate.lab.opponents.restart:AdaptiveRestart",
        description="accelerated gradient, restarted when the step turns against the gradient",
        citation=_RESTART,
        settings={"lr": 1e-2, "scheme": "gradient"},
    ),
    OptimizerEntry(
        name="restart-function",
        constructor="multirate.lab.opponents.restart:AdaptiveRestart",
        description="accelerated gradient, restarted when the loss grows",
        citation=_RESTART,
        settings={"lr": 1e-2, "scheme": "function"},
    ),
    OptimizerEntry(
        name="sasa-plus",
        constructor="multirate.lab.opponents.sasa:SASAPlus",
        description="SGD whose rate drops when a statistical test finds it stationary",
        citation=_SASA,
        settings={"lr": 1.0, "momentum": 0.9, "test_every": 100, "halves": True},
    ),
    OptimizerEntry(
        name="salsa",
        constructor="multirate.lab.opponents.salsa:SALSA",
        description="smoothed line search from a small rate, then SASA+",
        citation=_SASA,
        settings={"lr": 1e-3, "momentum": 0.9, "test_every": 100, "halves": True},
    ),
]
