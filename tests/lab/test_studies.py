"""The paper's experiments as lists of trials."""

import dataclasses
import json

import pytest

from multirate.lab.experiment import check_settings
from multirate.lab.machine import Machine
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.results import Trial
from multirate.lab.schedules import SCHEDULES
from multirate.lab.studies import tuned
from multirate.lab.studies.base import Request
from multirate.lab.studies.published import BAYDIN_TEST_LOSS, FINAL_UNIT_WEIGHT, PUBLISHED
from multirate.lab.studies.table import STUDIES
from multirate.lab.tasks import TASKS
from multirate.lab.trial import trial_settings
from multirate.lab.variants import Variant


def trials_of(name, **request):
    return STUDIES[name].stages[0].trials(Request(**request), ())


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_trial_names_what_there_is(name):
    trials = trials_of(name)
    assert trials
    assert len(set(trials)) == len(trials)
    for trial in trials:
        assert trial.task in TASKS
        assert trial.variant.optimizer in OPTIMIZERS
        assert trial.variant.schedule in SCHEDULES
        # The name is the canonical one: another spelling would be another trial.
        assert str(Variant.parse(trial.optimizer)) == trial.optimizer


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_optimizer_of_every_stage_takes_its_settings(name, make_result):
    earlier = []
    for stage in STUDIES[name].stages:
        trials = stage.trials(Request(seeds=1), earlier)
        check_settings(trials, Machine())
        earlier = [make_result(trial.optimizer, 0, 0.5, task=trial.task, best_epoch=3) for trial in trials]


def test_svhn_is_left_out_where_the_folder_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("MULTIRATE_DATA", str(tmp_path))
    assert {trial.task for trial in trials_of("table3")} == {"mnist/lenet", "cifar10/lenet"}
    assert {trial.task for trial in trials_of("table3", tasks=("svhn/lenet",))} == {"svhn/lenet"}
    (tmp_path / "svhn").mkdir()
    assert {trial.task for trial in trials_of("table3")} == {"mnist/lenet", "cifar10/lenet", "svhn/lenet"}


def test_table_2_has_the_paper_s_cells():
    trials = trials_of("table2")
    cells = {(trial.task, trial.optimizer) for trial in trials}
    assert cells == PUBLISHED["table2"].keys()
    assert {trial.seed for trial in trials} == set(range(10))
    assert {trial.epochs for trial in trials} == {30}
    assert len(trials) == 3 * 4 * 10


@pytest.mark.parametrize(
    ("name", "cells"), [*PUBLISHED.items(), ("weights", FINAL_UNIT_WEIGHT), ("baydin", BAYDIN_TEST_LOSS)]
)
def test_a_published_figure_stands_beside_a_cell_that_its_study_runs(name, cells, monkeypatch):
    monkeypatch.delenv("MULTIRATE_DATA", raising=False)
    assert cells.keys() <= {(trial.task, trial.optimizer) for trial in trials_of(name)}


@pytest.mark.parametrize(
    ("task", "optimizer", "expected"),
    [
        ("mnist/ffnn-100-100", "adam", {"lr": 3e-4}),
        ("mnist/ffnn-1000-1000", "adam", {"lr": 1e-3}),
        ("mnist/ffnn-100-100", "adam-cam-hd", {"hyper_lr": 1e-7, "weight_lr": 0.01, "weights": (0.5, 0.5)}),
        ("mnist/ffnn-100-100", "adam-cam-hd-3", {"weights": (0.4, 0.3, 0.3)}),
        (
            "cifar10/lenet",
            "adam-cam-hd",
            {"hyper_lr": 1e-8, "weight_lr": 0.03, "weights": (0.8, 0.2), "transition": 0.002},
        ),
        ("mnist/lenet", "sgdn-cam-hd", {"hyper_lr": 1e-3, "levels": ("global", "unit")}),
        ("cifar10/lenet", "adam-l4", {"lr": 0.15}),
        ("cifar10/resnet18", "adam-cam-hd", {"weight_decay": 1e-4, "transition": 0.001, "weight_lr": 0.001}),
        ("cifar10/resnet18", "sgdn-cam-hd+step", {"lr": 0.1, "hyper_lr": 1e-6}),
        ("cifar10/resnet34", "adam-l4", {"weight_decay": 5e-4}),
        ("mnist/mlp", "sgd-hd", {"lr": 1e-3, "hyper_lr": 1e-3}),
    ],
)
def test_the_protocol_is_the_paper_s(task, optimizer, expected):
    settings = trial_settings(Trial(task, optimizer, 0, 1))
    assert {name: settings[name] for name in expected} == expected


def test_digits_take_the_place_of_mnist_where_there_is_such_a_task():
    assert {trial.task for trial in trials_of("table2", data="digits")} == {
        "digits/ffnn-100-100", "digits/ffnn-1000-100", "digits/ffnn-1000-1000",
    }  # fmt: skip
    with pytest.raises(ValueError, match="no task 'digits/lenet'"):
        trials_of("weights", data="digits")


def test_a_study_can_be_cut_down_to_some_of_its_tasks():
    assert {trial.task for trial in trials_of("table2", tasks=("mnist/ffnn-100-100",))} == {"mnist/ffnn-100-100"}
    with pytest.raises(ValueError, match="has no task 'digits/ffnn'"):
        trials_of("table2", tasks=("digits/ffnn",))


def test_table_3_trains_as_long_as_the_folds_took(make_result):
    folds, whole = STUDIES["table3"].stages
    first = folds.trials(Request(tasks=("mnist/lenet",)), ())
    assert {(trial.fold, trial.patience) for trial in first} == {(fold, 3) for fold in range(5)}
    earlier = [
        make_result(trial.optimizer, trial.seed, 0.5, task=trial.task, fold=trial.fold, best_epoch=best)
        for trial in first
        for best in [(4 if trial.optimizer == "adam" else 9) + trial.fold]
    ]
    final = whole.trials(Request(tasks=("mnist/lenet",)), earlier)
    assert {(trial.optimizer, trial.epochs) for trial in final} == {
        (name, 6 if name == "adam" else 11)
        for name in ("adam", "adam-hd", "adam-cam-hd", "adam-l4", "adabound", "radam")
    }
    assert all(trial.fold is None and trial.patience is None for trial in final)
    assert len(final) == 6 * 5


def test_figure_2_goes_from_all_global_to_all_layers():
    variants = [Variant.parse(trial.optimizer) for trial in trials_of("figure2", seeds=1)]
    assert str(variants[0]) == "adam"
    ratios = sorted({variant.options["weights"] for variant in variants[1:]})
    assert ratios[0] == (0.0, 1.0)
    assert ratios[-1] == (1.0, 0.0)
    assert all(sum(pair) == pytest.approx(1) for pair in ratios)
    assert {variant.options["weight_lr"] for variant in variants[1:]} == {0.0, 0.01}


def test_tuning_gives_everyone_the_same_number_of_tries_and_takes_the_best(make_result):
    families = list(tuned.families())
    assert {len(family) for family in families} == {1, 5}
    search, final = STUDIES["tuned"].stages
    request = Request(tasks=("cifar10/lenet",), seeds=2)
    tried = search.trials(request, ())
    assert {trial.fold for trial in tried} == {0}
    assert len(tried) == sum(len(family) for family in families if len(family) > 1)
    adam = next(family for family in families if family[0].startswith("adam:lr"))
    losses = dict(zip(adam, (0.5, 0.4, None, 0.6, 0.7), strict=True))
    earlier = [make_result(name, 0, loss, task="cifar10/lenet", fold=0) for name, loss in losses.items()]
    # What is best elsewhere does not count here.
    earlier.append(make_result(adam[0], 0, 0.01, task="mnist/ffnn-1000-100", fold=0))
    chosen = [trial.optimizer for trial in final.trials(request, earlier)]
    assert len(chosen) == 2 * len(families)
    assert chosen.count(adam[1]) == 2
    assert "multirate" in chosen


def test_only_the_last_stage_is_told_beside_the_paper(invoke, tmp_path, monkeypatch):
    """Held-out accuracies of cross-validation are not what the paper's table reports."""
    task = dataclasses.replace(TASKS["digits/ffnn"], name="mnist/lenet")
    for module in ("experiment", "trial"):
        monkeypatch.setattr(f"multirate.lab.{module}.TASKS", {"mnist/lenet": task})
    done = invoke("reproduce", "table3", "--task", "mnist/lenet", "--seeds", 1, "--epochs", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert done.output.count("The paper's test accuracy and ours") == 1
    assert json.loads((tmp_path / "folds" / "experiment.json").read_text())["study"] is None
    assert json.loads((tmp_path / "experiment.json").read_text())["study"] == "table3"
