"""Our steps taken apart."""

import pytest

from multirate.kernels import compiled
from multirate.kernels.compiled.formulas import Pass
from multirate.lab.bench.candidates import CANDIDATES
from multirate.lab.bench.passes import Profile, Profiles, rows, run_passes

SHAPES = {"a.weight": (8, 4), "a.bias": (8,)}


def test_every_way_to_step_is_taken_apart_and_nothing_stays_watched():
    kept = (compiled.measure, compiled.apply, Pass._run)
    names = (
        "adamw-fused",
        "cam-hd-unit",
        "cam-hd-parameter",
        "cam-hd-late",
        "adamw-self",
        "prodigy",
        "cam-hd-gathered",
    )
    found = run_passes([CANDIDATES[name] for name in names], SHAPES, case="small", rounds=2, copied=64)
    assert found is not None
    assert {each.optimizer: set(each.passes) for each in found.optimizers} == {
        "adamw-fused": set(),
        "cam-hd-unit": {"measure", "apply"},
        "cam-hd-parameter": {"measure", "apply"},
        "cam-hd-late": {"look", "measure_and_apply"},
        "adamw-self": {"look", "advance"},
    }
    for each in found.optimizers:
        for whole, parts in zip(each.seconds, zip(*each.passes.values(), strict=True), strict=False):
            assert 0 < sum(parts) < whole
    assert kept == (compiled.measure, compiled.apply, Pass._run)


def test_nothing_of_ours_is_no_profile(monkeypatch):
    assert run_passes([CANDIDATES["adamw-fused"]], SHAPES, case="small", rounds=1, copied=64) is None
    monkeypatch.setattr(compiled.cpu, "available", lambda: False)
    assert run_passes([CANDIDATES["cam-hd-unit"]], SHAPES, case="small", rounds=1, copied=64) is None


def test_bytes_and_what_is_left():
    fused = Profile("adamw-fused", (0.010, 0.010, 0.012), {})
    own = Profile("cam-hd-layer", (0.017, 0.018, 0.030), {"measure": (0.006,) * 3, "apply": (0.010,) * 3})
    profiles = Profiles("small", 10_000_000, 3, (own, fused), 1_000_000, (0.0002,) * 3, (0.0004,) * 3)
    table = rows(profiles, {"adamw-fused": "fused", "cam-hd-layer": "ours"})
    told = {row["what"]: row for row in table}
    assert [row["what"] for row in table] == [
        "copying", "reading", "ours", "… measure", "… apply", "… the host's part", "fused",
    ]  # fmt: skip
    assert (told["copying"]["GB/s"], told["reading"]["GB/s"]) == ("40.0", "20.0")
    assert (told["ours"]["ms"], told["ours"]["to fused AdamW"]) == ("18.0", "1.80")
    assert (told["… measure"]["bytes a parameter"], told["… measure"]["GB/s"]) == ("12", "20.0")
    assert (told["… apply"]["bytes a parameter"], told["… apply"]["GB/s"]) == ("28", "28.0")
    assert float(told["… the host's part"]["ms"]) == pytest.approx(2.0)
    assert (told["fused"]["bytes a parameter"], told["fused"]["GB/s"]) == ("28", "28.0")
