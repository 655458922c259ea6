"""The paper's experiments as lists of trials."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from multirate.lab.commands import running
from multirate.lab.experiment import check_settings
from multirate.lab.machine import Machine
from multirate.lab.models.feed_forward import FeedForward
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.results import Trial
from multirate.lab.schedules import SCHEDULES
from multirate.lab.storage import Storage
from multirate.lab.studies import tuned
from multirate.lab.studies.base import Request
from multirate.lab.studies.plan import estimate_text, plan_text
from multirate.lab.studies.published import BAYDIN_TEST_LOSS, FINAL_UNIT_WEIGHT, PUBLISHED
from multirate.lab.studies.table import STUDIES
from multirate.lab.tasks import TASKS
from multirate.lab.trial import trial_settings
from multirate.lab.variants import Variant

needs_data = pytest.mark.skipif(not os.environ.get("MULTIRATE_DATA"), reason="MULTIRATE_DATA is not set")


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


@pytest.mark.parametrize("name", ["table3", "weights"])
def test_svhn_is_left_out_where_the_folder_has_none(name, monkeypatch, tmp_path):
    monkeypatch.setenv("MULTIRATE_DATA", str(tmp_path))
    assert {trial.task for trial in trials_of(name)} == {"mnist/lenet", "cifar10/lenet"}
    assert {trial.task for trial in trials_of(name, tasks=("svhn/lenet",))} == {"svhn/lenet"}
    (tmp_path / "svhn").mkdir()
    assert {trial.task for trial in trials_of(name)} == {"mnist/lenet", "cifar10/lenet", "svhn/lenet"}


def test_table_2_has_the_paper_s_cells():
    trials = trials_of("table2")
    cells = {(trial.task, trial.optimizer) for trial in trials}
    assert cells == PUBLISHED["table2"].keys()
    assert {trial.seed for trial in trials} == set(range(10))
    assert {trial.epochs for trial in trials} == {30}
    assert len(trials) == 3 * 4 * 10


def test_the_readings_share_the_trials_of_table_2():
    shared = {trial for trial in trials_of("table2", seeds=2) if trial.optimizer != "adam-hd"}
    own = {trial for trial in trials_of("readings", seeds=2) if "reading=" not in trial.optimizer}
    assert own == shared


@pytest.mark.parametrize(
    ("name", "cells"), [*PUBLISHED.items(), ("weights", FINAL_UNIT_WEIGHT), ("baydin", BAYDIN_TEST_LOSS)]
)
def test_a_published_figure_stands_beside_a_cell_that_its_study_runs(name, cells, monkeypatch):
    monkeypatch.delenv("MULTIRATE_DATA", raising=False)
    trials = trials_of(name)
    names = [
        (trial, trial.optimizer if name != "readings" else Variant.parse(trial.optimizer).optimizer) for trial in trials
    ]
    assert cells.keys() <= {(trial.task, optimizer) for trial, optimizer in names}


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


@pytest.mark.parametrize("seeds", [None, 1, 2, 8])
def test_the_seeds_of_table_3_are_those_of_its_last_stage_and_all_folds_choose_the_epochs(seeds, make_result):
    """Fewer or more folds would choose other epochs, and seeds could not be added to a folder."""
    folds, whole = STUDIES["table3"].stages
    request = Request(seeds=seeds, tasks=("mnist/lenet",))
    first = folds.trials(request, ())
    assert first == folds.trials(Request(tasks=("mnist/lenet",)), ())
    assert {trial.fold for trial in first} == set(range(5))
    earlier = [
        make_result(trial.optimizer, trial.seed, 0.5, task=trial.task, fold=trial.fold, best_epoch=2 * trial.fold + 1)
        for trial in first
    ]
    final = whole.trials(request, earlier)
    assert {trial.epochs for trial in final} == {5}
    assert {trial.seed for trial in final} == set(range(seeds or 5))


def test_the_committed_table_3_is_complete_and_seeds_can_be_added():
    folder = Path(__file__).parents[2] / "results" / "table3"
    tasks = ("mnist/lenet", "cifar10/lenet")
    folds, whole = STUDIES["table3"].stages
    cross_validated, kept = (
        [result for result in Storage(each).results() if result.task in tasks] for each in (folder / "folds", folder)
    )
    assert {result.trial for result in cross_validated} == set(folds.trials(Request(seeds=8, tasks=tasks), ()))
    wanted = set(whole.trials(Request(seeds=8, tasks=tasks), cross_validated))
    assert {result.trial for result in kept} <= wanted
    assert len(wanted) == 2 * 6 * 8
    for result in (*cross_validated, *kept):
        assert json.loads(json.dumps(trial_settings(result.trial))) == result.settings


def test_table_4_trains_forty_epochs_of_everything_before_anything_else(invoke, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(running, "run_experiment", lambda experiment, console: seen.append(experiment) or [])
    monkeypatch.setattr(running, "check_data", lambda trials: None)
    words = ("reproduce", "table4", "--seeds", 2, "--out", tmp_path)
    for more, expected in (((), [40, None]), (("--first", 5), [5, None]), (("--epochs", 40), [None])):
        seen.clear()
        done = invoke(*words, *more)
        assert done.exit_code == 0, done.output
        assert [experiment.until for experiment in seen] == expected
        # The schedules see the whole run either way.
        assert {trial.epochs for experiment in seen for trial in experiment.trials} == {
            40 if "--epochs" in more else 200
        }


def test_figure_2_goes_from_all_global_to_all_layers():
    variants = [Variant.parse(trial.optimizer) for trial in trials_of("figure2", seeds=1)]
    assert str(variants[0]) == "adam"
    ratios = sorted({variant.options["weights"] for variant in variants[1:]})
    assert ratios[0] == (0.0, 1.0)
    assert ratios[-1] == (1.0, 0.0)
    assert all(sum(pair) == pytest.approx(1) for pair in ratios)
    assert {variant.options["weight_lr"] for variant in variants[1:]} == {0.0, 0.01}


LENET = "cifar10/lenet"


def tuning(make_result, losses):
    """Search on LeNet with these losses, all others being 1, and return the trials of the three stages."""
    request, earlier, found = Request(tasks=(LENET,), seeds=2), [], []
    for stage in STUDIES["tuned"].stages:
        trials = stage.trials(request, earlier)
        found.append(trials)
        earlier = [
            make_result(
                trial.optimizer, 0, losses.get(trial.optimizer, 1.0), task=LENET, fold=trial.fold, epochs=trial.epochs
            )
            for trial in trials
        ]
        # What is best on another task, or over other epochs, does not count here.
        for other in ({"task": "mnist/ffnn-1000-100", "epochs": trials[0].epochs}, {"task": LENET, "epochs": 1}):
            earlier.append(make_result(trials[0].optimizer, 0, 0.01, fold=0, **other))
    return found


def of_level(level, hyper_rate, lr, schedule="constant"):
    weights = {"global": (1.0,), "unit": (1.0,)}[level]
    options = {"levels": (level,), "weights": weights, "reading": "scaled", "hyper_lr": hyper_rate, "lr": lr}
    return str(Variant("adam-cam-hd", options, schedule))


def test_tuning_takes_the_best_hyper_rate_then_the_best_rate_and_schedule(make_result):
    losses = {
        "adam:lr=0.003": 0.4, "adam:lr=0.001+cosine": 0.3, "adam:lr=0.01": None,
        of_level("unit", 1e-8, 1e-3): 0.4, of_level("unit", 1e-8, 1e-2, "cosine"): 0.2,
        # Tried at another hyper rate only if that were the best at the default rate.
        of_level("unit", 1e-7, 1e-2): 0.1,
    }  # fmt: skip
    first, second, final = tuning(make_result, losses)
    assert {trial.fold for trial in (*first, *second)} == {0}
    assert set(first) <= set(second)
    names = [trial.optimizer for trial in second]
    assert len(set(names)) == len(names)
    assert of_level("unit", 1e-7, 1e-3) in names
    assert of_level("unit", 1e-7, 1e-2) not in names
    chosen = [trial.optimizer for trial in final]
    assert len(chosen) == 2 * len(tuned.METHODS)
    assert chosen.count("adam:lr=0.001+cosine") == 2
    assert chosen.count(of_level("unit", 1e-8, 1e-2, "cosine")) == 2
    assert chosen.count("multirate") == 2
    assert {trial.fold for trial in final} == {None}


def test_levels_and_baselines_are_tuned_on_the_same_rates_and_schedules(make_result):
    _, second, _ = tuning(make_result, {})
    tried = {}
    for trial in second:
        variant = trial.variant
        key = variant.optimizer, variant.options.get("levels"), variant.options.get("hyper_lr")
        tried.setdefault(key, set()).add((variant.options["lr"], variant.schedule))
    adam = tried["adam", None, None]
    assert adam == {(lr, schedule) for lr in tuned.ADAM_RATES for schedule in ("constant", "cosine")}
    for method in tuned.METHODS.values():
        if method.hyper_rates:
            levels = method.options["levels"]
            assert tried["adam-cam-hd", levels, method.hyper_rates[0]] == adam
            for hyper_rate in method.hyper_rates[1:]:
                assert tried["adam-cam-hd", levels, hyper_rate] == {(1e-3, "constant")}


def test_hyper_rates_are_matched_by_the_number_of_nodes():
    """A sum over a node grows with it: the same total would be learned from if all gradients were alike."""
    model = FeedForward((8, 6, 4))
    named = list(model.named_parameters())
    rates = {}
    for level in ("global", "unit"):
        settings = Variant.parse(of_level(level, 1e-8, 1e-3)).options
        optimizer = OPTIMIZERS["adam-cam-hd"].build(named, settings)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        for _ in range(2):
            optimizer.step()
        moved = optimizer.applied_rates()
        rates[level] = sum((moved[name].expand_as(p) - 1e-3).mean() * p.numel() for name, p in named)
    assert rates["unit"].item() == pytest.approx(rates["global"].item(), rel=0.05)
    assert rates["global"].item() > 1e-6


def test_a_choice_at_the_edge_of_a_grid_is_told(make_result):
    losses = {"adam:lr=0.03+cosine": 0.3, "sgdn:lr=0.03": 0.3, of_level("unit", 1e-5, 1e-3): 0.3}
    request = Request(tasks=(LENET,))
    _, second, _ = tuning(make_result, losses)
    results = [make_result(trial.optimizer, 0, losses.get(trial.optimizer, 1.0), task=LENET) for trial in second]
    results.append(make_result("adam:lr=0.001", 0, 0.2, task="mnist/ffnn-1000-100", epochs=5))
    lines = STUDIES["tuned"].stages[2].choices(request, results).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines[4:]]
    assert ["mnist/ffnn-1000-100", "adam, tuned", "`adam:lr=0.001`", "no", "5", "0.2000"] in rows, "searched before"
    edges = {method: edge for task, method, _, edge, *_ in rows if task == LENET}
    assert edges["adam, tuned"] == "lr"
    assert edges["sgdn, tuned"] == "no"
    assert edges["levels: unit"] == "hyper_lr"
    assert "prodigy" not in edges


def test_the_size_of_a_study_is_told_before_it_is_run():
    assert plan_text(STUDIES["table2"], Request(seeds=2)) == "table2: 24 trials."
    assert plan_text(STUDIES["tuned"], Request()) == "tuned: 330 trials in 3 stages: 120, 90, 120."


def test_how_long_is_left_goes_by_what_is_finished(make_result):
    trials = [Trial("digits/ffnn", name, seed, 10) for name in ("adam", "sgd") for seed in range(3)]
    assert "not known before one of digits/ffnn is done" in estimate_text(trials, [], 1)
    known = [make_result("adam", 0, 0.5, epochs=10, seconds=600.0)]
    # Five others at ten minutes, two at a time.
    assert "5 trials to run, about 25 minutes" in estimate_text(trials, known, 2)
    known.append(make_result("sgd", 0, 0.5, epochs=10, seconds=3000.0, preparation_seconds=600.0))
    # Two at ten minutes, two at an hour.
    assert "4 trials to run, about 2.3 hours" in estimate_text(trials, known, 1)
    assert estimate_text(trials[:1], known, 1) == "All trials are finished."


def test_a_tuned_study_is_run_from_search_to_final(invoke, tmp_path, monkeypatch):
    task = dataclasses.replace(TASKS["digits/ffnn"], name=LENET)
    for module in ("experiment", "trial"):
        monkeypatch.setattr(f"multirate.lab.{module}.TASKS", {LENET: task})
    kept = ("adam, tuned", "levels: unit", "multirate")
    monkeypatch.setattr(tuned, "METHODS", {
        name: dataclasses.replace(method, rates=method.rates[:2], hyper_rates=method.hyper_rates[:2])
        for name, method in tuned.METHODS.items() if name in kept
    })  # fmt: skip
    words = ("reproduce", "tuned", "--task", LENET, "--seeds", 1, "--epochs", 1, "--out", tmp_path)
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert "tuned: 12 trials in 3 stages: 6, 3, 3." in done.output
    assert "how long they take is not known" in done.output
    choices = (tmp_path / "choices.md").read_text()
    assert choices in done.output
    final = [json.loads(line)["optimizer"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(final) == 3
    for optimizer in final[:2]:
        assert f"`{optimizer}`" in choices
    again = invoke(*words)
    assert again.exit_code == 0
    assert again.output.count("All trials are finished.") == 3


def test_only_the_last_stage_is_told_beside_the_paper(invoke, tmp_path, monkeypatch):
    """Held-out accuracies of cross-validation are not what the paper's table reports."""
    task = dataclasses.replace(TASKS["digits/ffnn"], name="mnist/lenet")
    for module in ("experiment", "trial"):
        monkeypatch.setattr(f"multirate.lab.{module}.TASKS", {"mnist/lenet": task})
    done = invoke("reproduce", "table3", "--task", "mnist/lenet", "--seeds", 1, "--epochs", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert done.output.count("Beside the paper") == 1
    assert json.loads((tmp_path / "folds" / "experiment.json").read_text())["study"] is None
    assert json.loads((tmp_path / "experiment.json").read_text())["study"] == "table3"


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        pytest.param(
            ("--data", "digits"),
            {"digits/ffnn-100-100": 45, "digits/ffnn-1000-100": 23, "digits/ffnn-1000-1000": 12},
            id="digits",
        ),
        pytest.param(("--task", "mnist/ffnn-100-100"), {"mnist/ffnn-100-100": 1875}, marks=needs_data, id="mnist"),
    ],
)
def test_table_2_is_run_from_the_command_line_to_its_report(invoke, tmp_path, words, steps):
    done = invoke("reproduce", "table2", *words, "--seeds", 2, "--epochs", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    optimizers = ["adam", "adam-hd", "adam-cam-hd", "adam-cam-hd-3"]
    trials = [Trial(task, name, seed, 1) for seed in (0, 1) for task in steps for name in optimizers]
    storage = Storage(tmp_path)
    results = storage.results()
    assert [result.trial for result in results] == trials
    for result in results:
        assert not result.diverged
        assert result.steps == steps[result.task]
        assert storage.curves(result.trial)["epoch"] == [0, 1]
        assert json.loads(json.dumps(trial_settings(result.trial))) == result.settings
    tables = (tmp_path / "tables.md").read_text()
    page = (tmp_path / "report.html").read_text()
    for task in steps:
        table = tables.partition(f"## {task}\n")[2].partition("###")[0]
        rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
        assert [(row[0], row[3]) for row in rows] == [(f"| `{name}`", "2") for name in optimizers]
        section = page.partition(f"<h2>{task}</h2>")[2].partition("<h2>")[0]
        assert all(f'<td class="name">{name}</td>' in section for name in optimizers)
        assert (tmp_path / f"{task.replace('/', '-')}-learning.png").read_bytes().startswith(b"\x89PNG")
    assert f"{len(trials)} trials" in page
    # The paper's figures are of MNIST.
    assert ("Beside the paper" in tables) == ("mnist/ffnn-100-100" in steps)
