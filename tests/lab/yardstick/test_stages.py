"""The tasks of the yardstick, and which trials of them are run."""

import pytest

from multirate.lab.tasks import TASKS
from multirate.lab.yardstick.families import FAMILIES
from multirate.lab.yardstick.stages import Request, final_trials, search_trials
from multirate.lab.yardstick.tasks import YARDSTICK, group_tasks

LOGISTIC, QUADRATIC = "yardstick/digits-logistic", "yardstick/quadratic"


def request(group="development", tasks=(LOGISTIC, QUADRATIC), families=tuple(FAMILIES), seeds=3, epochs=None):
    return Request(group, tasks, families, seeds, epochs)


def test_every_task_is_in_the_table_and_in_one_group():
    assert all(TASKS[name] is entry.task for name, entry in YARDSTICK.items())
    assert not any(entry.task.settings for entry in YARDSTICK.values()), "every optimizer keeps its own settings"
    groups = [set(group_tasks(group, gpu=True)) for group in ("development", "test")]
    assert groups[0] | groups[1] == set(YARDSTICK)
    assert not groups[0] & groups[1]


@pytest.mark.parametrize(
    ("task", "epochs", "batch_size"),
    [
        ("mnist-ffnn", 3, 128), ("cifar10-lenet", 5, 256), ("gpt", 8, 32), ("lstm", 8, 32),
        ("digits-logistic", 22, 32), ("quadratic", 20, 1), ("mnist-batch4", 5, 4),
    ],
)  # fmt: skip
def test_the_development_tasks(task, epochs, batch_size):
    found = TASKS[f"yardstick/{task}"]
    assert (found.epochs, found.batch_size) == (epochs, batch_size)


def test_the_resnet_waits_for_a_gpu():
    with_gpu, without = (group_tasks("development", gpu=gpu) for gpu in (True, False))
    assert set(with_gpu) - set(without) == {"yardstick/cifar10-resnet18"}
    assert len(without) == 7


def test_only_losses_whose_least_value_is_zero_have_a_floor():
    assert {name: entry.floor for name, entry in YARDSTICK.items() if entry.floor} == {
        "yardstick/quadratic": 1.0, "yardstick-test/rosenbrock": 1.0,
    }  # fmt: skip


def test_the_search_tries_every_tuned_cell_once():
    trials = search_trials(request())
    assert len(trials) == len(set(trials)) == 2 * (24 + 24 + 28 + 6)
    assert {trial.epochs for trial in trials if trial.task == LOGISTIC} == {22}
    assert not search_trials(request(families=("prodigy", "multirate", "levels")))


def test_the_search_has_a_seed_that_is_not_scored_and_the_groups_share_none():
    seeds = {}
    for group in ("development", "test"):
        wanted = request(group, tasks=group_tasks(group, gpu=False)[:1], seeds=100)
        seeds[group, "search"] = {trial.seed for trial in search_trials(wanted)}
        seeds[group, "final"] = {trial.seed for trial in final_trials(wanted, ())}
    assert seeds["development", "final"] == set(range(100))
    assert len(set().union(*seeds.values())) == sum(map(len, seeds.values()))


def test_the_best_cell_of_every_tuned_family_on_each_task_is_scored(make_result):
    earlier = [
        make_result("adam:lr=0.0001", 900, 0.5, task=LOGISTIC),
        make_result("adam:lr=0.003+linear", 900, 0.2, task=LOGISTIC),
        make_result("adam:lr=0.03", 900, None, task=LOGISTIC),
        make_result("adam:lr=0.0003", 900, 0.1, task=QUADRATIC),
        make_result("adamw:lr=0.01", 900, 0.01, task=LOGISTIC),
    ]
    trials = final_trials(request(families=("adam-tuned", "prodigy"), seeds=2, epochs=1), earlier)
    assert [(trial.task, trial.optimizer, trial.seed) for trial in trials] == [
        (task, optimizer, seed)
        for seed in (0, 1)
        for task, best in ((LOGISTIC, "adam:lr=0.003+linear"), (QUADRATIC, "adam:lr=0.0003"))
        for optimizer in (best, "prodigy", "prodigy+cosine")
    ]
    assert {trial.epochs for trial in trials} == {1}


def test_how_much_is_run_on_a_task():
    trials = final_trials(request(tasks=(LOGISTIC,)), ())
    assert len(trials) == len(set(trials)) == 3 * (4 + 8 * 2 + 3 * 14 + 4)
