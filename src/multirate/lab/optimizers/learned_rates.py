"""Rates learned by gradients: for every parameter, through a trace, through whole runs, or beforehand by a network."""

from __future__ import annotations

from multirate.lab.optimizers.entry import OptimizerEntry

_META = "Sharifnassab, Salehkaleybar & Sutton 2025, arXiv 2402.02342"

LEARNED_RATES = [
    OptimizerEntry(
        name="idbd",
        constructor="multirate.lab.opponents.idbd:IDBD",
        description="a log-rate for every parameter, learned by the incremental delta-bar-delta rule",
        citation="Sutton 1992",
        settings={"lr": 5e-2, "meta_lr": 1e-2},
    ),
    OptimizerEntry(
        name="almeida",
        constructor="multirate.lab.opponents.almeida:Almeida",
        description="a rate for every parameter, by the agreement of successive gradients",
        citation="Almeida et al. 1998",
        settings={"lr": 5e-2, "meta_lr": 1e-2},
    ),
    OptimizerEntry(
        name="smd",
        constructor="multirate.lab.opponents.smd:SMD",
        description="a gain for every parameter, by stochastic meta-descent with Hessian products",
        citation="Schraudolph 1999",
        settings={"lr": 5e-2, "meta_lr": 2e-2},
    ),
    OptimizerEntry(
        name="meta-optimize",
        constructor="multirate.lab.opponents.meta_optimize:MetaOptimize",
        description="AdamW with log-rates learned through a trace, by Lion",
        citation=_META,
        settings={"lr": 1e-6, "base": "adamw", "meta": "lion", "blocks": "scalar"},
    ),
    OptimizerEntry(
        name="meta-optimize-layer",
        constructor="multirate.lab.opponents.meta_optimize:MetaOptimize",
        description="MetaOptimize with a rate for every layer",
        citation=_META,
        settings={"lr": 1e-6, "base": "adamw", "meta": "lion", "blocks": "layer"},
    ),
    OptimizerEntry(
        name="forward-mode",
        constructor="multirate.lab.opponents.forward_mode:ForwardModeSGD",
        description="momentum with one rate, learned by forward differentiation of the whole run",
        citation="Franceschi et al. 2017, arXiv 1703.01785",
        settings={"lr": 1e-2, "hyper_lr": 1e-3},
    ),
    OptimizerEntry(
        name="reverse-mode",
        constructor="multirate.lab.opponents.reverse_mode:ReverseModeSGD",
        description="momentum with a rate schedule for every layer, learned by reversing practice runs",
        citation="Maclaurin et al. 2015, arXiv 1502.03492",
        settings={"lr": 1e-2},
    ),
    OptimizerEntry(
        name="learned",
        constructor="multirate.lab.opponents.learned:LearnedOptimizer",
        description="an LSTM for every coordinate, trained on small tasks",
        citation="Andrychowicz et al. 2016, arXiv 1606.04474",
    ),
]
