"""Learning rates that learn themselves, at several levels at once."""

from multirate import adaptation, levels, rules
from multirate.adaptation import Transition
from multirate.hypergradient import SGDCAMHD, SGDHD, SGDNCAMHD, SGDNHD, AdaBoundCAMHD, AdamCAMHD, AdamHD
from multirate.levels import Level
from multirate.lookahead import Lookahead
from multirate.optimizer import MultiRate
from multirate.self_tuning import SGD, AdaBound, Adagrad, Adam, AdamW, Lion, NAdam, RAdam, RMSprop
from multirate.wrap import Wrapped, wrap

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "SGDCAMHD",
    "SGDHD",
    "SGDNCAMHD",
    "SGDNHD",
    "AdaBound",
    "AdaBoundCAMHD",
    "Adagrad",
    "Adam",
    "AdamCAMHD",
    "AdamHD",
    "AdamW",
    "Level",
    "Lion",
    "Lookahead",
    "MultiRate",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Transition",
    "Wrapped",
    "adaptation",
    "levels",
    "rules",
    "wrap",
]
