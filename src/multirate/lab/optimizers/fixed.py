"""Optimizers at a fixed rate, or one that an ordinary schedule moves."""

from __future__ import annotations

from multirate.lab.optimizers.entry import OptimizerEntry

_ADAM = "Kingma & Ba 2015, arXiv 1412.6980"

FIXED = [
    OptimizerEntry(
        name="sgd",
        constructor="torch.optim:SGD",
        description="stochastic gradient descent",
        citation="Robbins & Monro 1951",
        settings={"lr": 1e-1},
    ),
    OptimizerEntry(
        name="sgdn",
        constructor="torch.optim:SGD",
        description="SGD with Nesterov momentum",
        citation="Nesterov 1983; Sutskever et al. 2013",
        settings={"lr": 1e-2, "momentum": 0.9, "nesterov": True},
    ),
    OptimizerEntry(
        name="adagrad",
        constructor="torch.optim:Adagrad",
        description="AdaGrad",
        citation="Duchi et al. 2011",
        settings={"lr": 1e-2},
    ),
    OptimizerEntry(
        name="rmsprop",
        constructor="torch.optim:RMSprop",
        description="RMSProp",
        citation="Tieleman & Hinton 2012",
        settings={"lr": 1e-3},
    ),
    OptimizerEntry(
        name="adam",
        constructor="torch.optim:Adam",
        description="Adam",
        citation=_ADAM,
        settings={"lr": 1e-3, "fused": True},
    ),
    OptimizerEntry(
        name="amsgrad",
        constructor="torch.optim:Adam",
        description="Adam with the largest second moment so far",
        citation="Reddi et al. 2018, arXiv 1904.09237",
        settings={"lr": 1e-3, "amsgrad": True},
    ),
    OptimizerEntry(
        name="adamw",
        constructor="torch.optim:AdamW",
        description="Adam with decoupled weight decay",
        citation="Loshchilov & Hutter 2019, arXiv 1711.05101",
        settings={"lr": 1e-3, "weight_decay": 1e-2, "fused": True},
    ),
    OptimizerEntry(
        name="radam",
        constructor="torch.optim:RAdam",
        description="Adam with the variance of its early steps rectified",
        citation="Liu et al. 2020, arXiv 1908.03265",
        settings={"lr": 1e-3},
    ),
    OptimizerEntry(
        name="adabound",
        constructor="pytorch_optimizer:AdaBound",
        description="Adam whose elementwise rates are clipped towards one of SGD",
        citation="Luo et al. 2019, arXiv 1902.09843",
        settings={"lr": 1e-3, "final_lr": 0.1, "gamma": 1e-3, "weight_decouple": False},
        extra="bench",
    ),
    OptimizerEntry(
        name="lookahead-adam",
        constructor="multirate.lab.opponents.lookahead:LookaheadAdam",
        description="Adam with slow weights that follow every fifth step",
        citation="Zhang et al. 2019, arXiv 1907.08610",
        settings={"lr": 1e-3, "k": 5, "alpha": 0.5},
        extra="bench",
        wraps="pytorch_optimizer:Lookahead",
    ),
]
