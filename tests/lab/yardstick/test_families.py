"""The methods of the yardstick and their grids."""

import itertools

import pytest

from multirate.lab.experiment import check_settings
from multirate.lab.machine import Machine
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.results import Trial
from multirate.lab.schedules import SCHEDULES
from multirate.lab.variants import Variant
from multirate.lab.yardstick.families import DEFAULT, FAMILIES, OURS, TUNED, family_of

ADAM_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SGD_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
SCHEDULE_FREE_RATES = (5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 3e-2)
START_RATES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
ALL_SCHEDULES = ("constant", "linear", "cosine", "warmup-cosine")


def cells(name):
    variants = [Variant.parse(candidate) for candidate in FAMILIES[name].candidates]
    return {(variant.optimizer, variant.options.get("lr"), variant.schedule) for variant in variants}


def product(optimizer, rates, schedules):
    return set(itertools.product((optimizer,), rates, schedules))


def test_the_families_are_opponents_tuned_and_as_they_come_and_ours():
    kinds = {kind: [name for name in FAMILIES if FAMILIES[name].kind == kind] for kind in (TUNED, DEFAULT, OURS)}
    assert kinds == {
        "tuned": ["adam-tuned", "adamw-tuned", "sgdn-tuned", "schedule-free-tuned"],
        "default": ["adam", "adamw", "sgdn", "prodigy", "d-adapt-adam", "schedule-free", "dog", "meta-optimize"],
        "ours": ["multirate-adamw", "multirate-sgd", "multirate"],
    }
    assert list(FAMILIES)[-1] == "levels"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adam-tuned", product("adam", ADAM_RATES, ALL_SCHEDULES)),
        ("adamw-tuned", product("adamw", ADAM_RATES, ALL_SCHEDULES)),
        ("sgdn-tuned", product("sgdn", SGD_RATES, ALL_SCHEDULES)),
        ("schedule-free-tuned", product("schedule-free", SCHEDULE_FREE_RATES, ("constant",))),
        ("prodigy", product("prodigy", (None,), ("constant", "cosine"))),
        ("meta-optimize", product("meta-optimize", (None,), ("constant", "cosine"))),
        ("multirate-adamw", product("multirate-adamw", START_RATES, ("constant", "cosine"))),
        ("multirate-sgd", product("multirate-sgd", START_RATES, ("constant", "cosine"))),
        ("multirate", product("multirate", START_RATES, ("constant", "cosine"))),
    ],
)
def test_the_grid_of_a_family(name, expected):
    assert cells(name) == expected
    assert len(FAMILIES[name].candidates) == len(expected)


def test_levels_differ_in_nothing_else():
    variants = [Variant.parse(candidate) for candidate in FAMILIES["levels"].candidates]
    assert [variant.options["levels"] for variant in variants] == [
        ("global",), ("global", "layer"), ("global", "unit"), ("global", "parameter"),
    ]  # fmt: skip
    assert {(variant.optimizer, variant.options["lr"], variant.schedule) for variant in variants} == {
        ("multirate-adamw", 1e-3, "constant")
    }


def test_every_candidate_is_written_as_it_is_read_and_takes_its_settings():
    candidates = [candidate for family in FAMILIES.values() for candidate in family.candidates]
    assert len(set(candidates)) == len(candidates), "a variant of two families could not be told apart"
    for candidate in candidates:
        variant = Variant.parse(candidate)
        assert str(variant) == candidate
        assert variant.optimizer in OPTIMIZERS
        assert variant.schedule in SCHEDULES
    check_settings([Trial("yardstick/mnist-ffnn", candidate, 0, 1) for candidate in candidates], Machine())


@pytest.mark.parametrize("name", ["multirate", "multirate-adamw", "multirate-sgd"])
def test_ours_come_untouched(name):
    assert not OPTIMIZERS[name].settings


@pytest.mark.parametrize(
    ("optimizer", "family", "method"),
    [
        ("adam:lr=0.003+cosine", "adam-tuned", "adam-tuned"),
        ("adam+cosine", "adam", "adam+cosine"),
        ("multirate-sgd:lr=1e-07+cosine", "multirate-sgd", "multirate-sgd+cosine"),
        ("multirate-adamw:levels=global/unit:lr=0.001", "levels", "levels: global + unit"),
    ],
)
def test_the_line_of_a_variant(optimizer, family, method):
    found = family_of(optimizer)
    assert found is FAMILIES[family]
    assert found.method(optimizer) == method


def test_other_variants_belong_nowhere():
    assert family_of("adam:lr=0.5") is None
