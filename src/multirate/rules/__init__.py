"""Rules: in which direction a parameter would move, the rate not yet applied."""

from multirate.rules.adabound import AdaBound
from multirate.rules.adagrad import Adagrad
from multirate.rules.adam import Adam, SecondMoment
from multirate.rules.base import Rule
from multirate.rules.lion import Lion
from multirate.rules.nadam import NAdam
from multirate.rules.radam import RAdam
from multirate.rules.rmsprop import RMSprop, RootMeanSquare
from multirate.rules.sgd import SGD, Gradient

__all__ = [
    "SGD",
    "AdaBound",
    "Adagrad",
    "Adam",
    "Gradient",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "RootMeanSquare",
    "Rule",
    "SecondMoment",
]
