"""The methods of the yardstick: tuned opponents, opponents at their default, and ours from every starting rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from multirate.lab.registry import Registry
from multirate.lab.variants import CONSTANT, Settings, Variant

ADAM_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SGD_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
SCHEDULE_FREE_RATES = (5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 3e-2)
TUNED_SCHEDULES = (CONSTANT, "linear", "cosine", "warmup-cosine")

START_RATES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
HIGHEST_SCORED_RATE = 1e-2
"""Starting rates above it are scored apart."""

SCHEDULES = (CONSTANT, "cosine")
LEVELS = (("global",), ("global", "layer"), ("global", "unit"), ("global", "parameter"))
LEVELS_RATE = 1e-3

TUNED, DEFAULT, OURS, BY_LEVEL = "tuned", "default", "ours", "by level"


@dataclass(frozen=True)
class Family:
    """Variants that belong together.

    Attributes:
        name: What a user types.
        kind: `tuned`: the best candidate of every task is run; `default`: the opponent as it comes; `ours`: from every
            starting rate; `by level`: ours with fixed sets of levels.
        candidates: The variants.
    """

    name: str
    kind: str
    candidates: Sequence[str]

    def method(self, optimizer: str) -> str:
        """Return what the table calls a candidate: tuned ones and starting rates share a line."""
        variant = Variant.parse(optimizer)
        if self.kind == TUNED:
            return self.name
        if self.kind == OURS:
            return str(Variant(variant.optimizer, schedule=variant.schedule))
        if self.kind == BY_LEVEL:
            levels = variant.options["levels"]
            assert isinstance(levels, tuple)
            return f"levels: {' + '.join(map(str, levels))}"
        return optimizer


def _tuned(optimizer: str, rates: Sequence[float], schedules: Sequence[str] = TUNED_SCHEDULES) -> Family:
    candidates = [str(Variant(optimizer, {"lr": lr}, schedule)) for schedule in schedules for lr in rates]
    return Family(f"{optimizer}-tuned", TUNED, candidates)


def _default(optimizer: str) -> Family:
    return Family(optimizer, DEFAULT, [str(Variant(optimizer, schedule=schedule)) for schedule in SCHEDULES])


def _ours(optimizer: str) -> Family:
    candidates = [str(Variant(optimizer, {"lr": lr}, schedule)) for schedule in SCHEDULES for lr in START_RATES]
    return Family(optimizer, OURS, candidates)


def _by_level() -> Family:
    options: list[Settings] = [MappingProxyType({"levels": levels, "lr": LEVELS_RATE}) for levels in LEVELS]
    return Family("levels", BY_LEVEL, [str(Variant("multirate-adamw", each)) for each in options])


FAMILIES: Registry[Family] = Registry(
    "family",
    [
        _tuned("adam", ADAM_RATES),
        _tuned("adamw", ADAM_RATES),
        _tuned("sgdn", SGD_RATES),
        _tuned("schedule-free", SCHEDULE_FREE_RATES, (CONSTANT,)),
        *(_default(name) for name in ("adam", "adamw", "sgdn")),
        *(_default(name) for name in ("prodigy", "d-adapt-adam", "schedule-free", "dog", "meta-optimize")),
        *(_ours(name) for name in ("multirate-adamw", "multirate-sgd", "multirate")),
        _by_level(),
    ],
)


_BY_CANDIDATE = {optimizer: family for family in FAMILIES.values() for optimizer in family.candidates}


def family_of(optimizer: str) -> Family | None:
    """Return the family that a variant is a candidate of."""
    return _BY_CANDIDATE.get(optimizer)
