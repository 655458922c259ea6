"""Growth, compiling and whole training steps, in small."""

import pytest
import torch

from multirate.lab.bench import compilation, training
from multirate.lab.bench.candidates import CANDIDATES
from multirate.lab.bench.compilation import Compilation, compilations, first_step
from multirate.lab.bench.growth import SWEEPS, run_growth
from multirate.lab.bench.tables import compilation_rows, growth_rows, training_rows
from multirate.lab.bench.training import WORKLOADS, TrainingTiming, overhead, run_training

CPU = torch.device("cpu")


def chosen(*names):
    return [CANDIDATES[name] for name in names]


def timing(optimizer, *seconds, workload="gpt"):
    return TrainingTiming(workload, optimizer, 10, seconds, seconds)


def test_growth_has_a_row_for_every_size_and_line():
    sizes = []
    rows = run_growth(
        chosen("adamw-loop", "adamw-fused", "cam-hd-layer"), rounds=2, device=CPU, quick=True,
        on_size=lambda: sizes.append(1),
    )  # fmt: skip
    assert [(row.sweep, row.size, row.optimizer) for row in rows] == [
        (sweep.name, size, name)
        for sweep in SWEEPS.values()
        for size in sweep.quick
        for name in ("adamw-fused", "cam-hd-layer")
    ]
    assert all(len(row.seconds) == 2 for row in rows)
    assert len(sizes) == 4
    table = growth_rows(rows, "tensors")
    assert [list(row) for row in table] == [["optimizer", "1", "4"]] * 2
    assert run_growth(chosen("adamw-loop"), rounds=1, device=CPU, quick=True) == []


def test_training_times_whole_steps_and_the_optimizer_s_part():
    timings = run_training(chosen("adamw-fused", "cam-hd-layer", "adamw-self"), rounds=2, device=CPU, quick=True)
    assert [(each.workload, each.optimizer) for each in timings] == [
        (workload, name) for workload in WORKLOADS for name in ("adamw-fused", "cam-hd-layer", "adamw-self")
    ]
    for each in timings:
        assert len(each.seconds) == len(each.stepping) == 2
        assert all(0 < part < whole for part, whole in zip(each.stepping, each.seconds, strict=True))


def test_training_moves_the_parameters_and_each_its_own(monkeypatch):
    models = []
    trainee = training._trainee

    def watched(*arguments):
        models.append(trainee(*arguments))
        return models[-1]

    monkeypatch.setattr(training, "_trainee", watched)
    run_training(chosen("adamw-fused", "adamw-foreach"), rounds=1, device=CPU, quick=True)
    for first, second in (models[:2], models[2:]):
        again = trainee(first.candidate, WORKLOADS["gpt" if first is models[2] else "resnet18"], CPU, True)
        for one, other, start in zip(*(each.model.parameters() for each in (first, second, again)), strict=True):
            torch.testing.assert_close(one, other)  # the same model, batch and method
            assert not torch.equal(one, start)


def test_overhead_is_the_median_of_ratios_within_rounds():
    reference = timing("adamw-fused", 1.0, 2.0, 4.0, 1.0, 1.0, 1.0, 1.0)
    own = timing("cam-hd-layer", 1.1, 2.4, 4.0, 1.1, 1.1, 1.05, 1.15)
    found = overhead(own, [own, timing("adamw-fused", 9.0, workload="other"), reference])
    assert found.median == pytest.approx(0.1)
    assert found.of_part == pytest.approx(0.1)
    assert found.interval == (pytest.approx(0.0), pytest.approx(0.2))
    assert overhead(own, [own]) is None
    assert overhead(timing("prodigy", 1.0), [timing("adamw-fused", 2.0)]).interval is None
    assert training_rows([own, reference])[0] == {
        "model": "gpt", "optimizer": "AdamCAMHD, global + layer", "step ms": "1100.0", "its part ms": "1100.0",
        "over fused AdamW": "+10.0 %", "95 % interval": "+0.0 to +20.0 %",
        "by its part alone": "+10.00 %",
    }  # fmt: skip
    assert overhead(reference, [own, reference]) is None
    assert overhead(TrainingTiming("gpt", "prodigy", 1, (1.0,) * 7, ()), [reference]).of_part is None
    assert training_rows([own])[0]["over fused AdamW"] == "–"


def test_only_what_compiles_has_its_first_step_timed(monkeypatch):
    asked = []
    monkeypatch.setattr(compilation, "_in_new_processes", lambda name, device: asked.append(name))
    compilations(chosen("adamw-fused", "cam-hd-layer", "prodigy", "heavyball"), CPU)
    assert asked == ["cam-hd-layer", "heavyball"]
    (here,) = compilations(chosen("adam-hd"), CPU, apart=False)
    assert here.error is None
    assert here.first > 0
    assert len(here.later) == compilation.LATER


def test_a_first_step_that_fails_is_told(monkeypatch):
    def broken(self, closure=None):
        raise RuntimeError("no compiler")

    monkeypatch.setattr("multirate.AdamHD.step", broken)
    found = first_step("adam-hd", "cpu")
    assert found == Compilation("adam-hd", error="RuntimeError: no compiler")
    rows = compilation_rows([found, Compilation("cam-hd-layer", 1.5, (0.5, 0.1, 0.7), 0.6)])
    assert [row["compiling ms"] for row in rows] == ["RuntimeError: no compiler", "1000.0"]
    assert [row["in a later process ms"] for row in rows] == ["–", "600.0"]


def test_new_processes_time_a_first_step_and_one_that_finds_it_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIRATE_CACHE", str(tmp_path / "cache"))
    found = compilation._in_new_processes("adam-hd", CPU)
    assert found.error is None
    assert found.name == "adam-hd"
    assert found.again > 0
    assert not (tmp_path / "cache").exists()  # what is there already would be nothing to time
