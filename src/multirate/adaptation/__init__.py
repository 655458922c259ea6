"""Adaptations: how rates move and mix, given the hypergradients."""

from multirate.adaptation.base import Adaptation, Measurement
from multirate.adaptation.combination import CAMHD, Additive
from multirate.adaptation.distance import DistanceRates
from multirate.adaptation.log_rates import LogRates
from multirate.adaptation.multiplicative import Multiplicative
from multirate.adaptation.regularization import Regularized
from multirate.adaptation.steps import AdamStep, HyperStep, Momentum, Plain, Sign
from multirate.adaptation.transition import Transition

__all__ = [
    "CAMHD",
    "AdamStep",
    "Adaptation",
    "Additive",
    "DistanceRates",
    "HyperStep",
    "LogRates",
    "Measurement",
    "Momentum",
    "Multiplicative",
    "Plain",
    "Regularized",
    "Sign",
    "Transition",
]
