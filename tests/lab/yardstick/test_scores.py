"""Scores from results made by hand."""

import pytest

from multirate.lab.yardstick.scores import score

LOGISTIC, QUADRATIC = "yardstick/digits-logistic", "yardstick/quadratic"


@pytest.fixture
def results(make_result):
    """The best tuned mean is 0.2 on one task; on the other it is 1, and 1 is added to all losses."""
    rows = [
        (LOGISTIC, "adam:lr=0.001", (0.1, 0.3)),
        (LOGISTIC, "sgdn:lr=0.1", (0.4, 0.4)),
        (LOGISTIC, "adamw:lr=0.001", (0.01, None)),
        (LOGISTIC, "prodigy", (0.2, 0.6)),
        (LOGISTIC, "multirate:lr=1e-07", (0.2, 0.2)),
        (LOGISTIC, "multirate:lr=0.01", (0.8, 0.8)),
        (LOGISTIC, "multirate:lr=0.1", (None, 0.2)),
        (LOGISTIC, "adam:lr=0.7", (0.01, 0.01)),
        (QUADRATIC, "adam:lr=0.001", (1.0, 1.0)),
        (QUADRATIC, "multirate:lr=1e-07", (0.0, 0.0)),
        (QUADRATIC, "multirate:lr=0.01", (3.0, 3.0)),
    ]
    return [
        make_result(optimizer, seed, loss, task=task, steps=100, seconds=2.0 if "multirate" in optimizer else 1.0)
        for task, optimizer, losses in rows
        for seed, loss in enumerate(losses)
    ]


@pytest.fixture
def yardstick(results):
    return score(results, {})


def methods(yardstick):
    return {method.method: method for method in yardstick.methods}


def test_the_target_is_the_best_tuned_run_of_those_that_always_finish(yardstick):
    assert {task: target.optimizer for task, target in yardstick.targets.items()} == {
        LOGISTIC: "adam:lr=0.001", QUADRATIC: "adam:lr=0.001",
    }  # fmt: skip
    assert yardstick.targets[LOGISTIC].mean == pytest.approx(0.2)
    assert not yardstick.targets[LOGISTIC].at_edge
    assert yardstick.missing == {
        LOGISTIC: ["schedule-free-tuned"], QUADRATIC: ["adamw-tuned", "sgdn-tuned", "schedule-free-tuned"],
    }  # fmt: skip


def test_a_cell_is_the_mean_ratio_over_seeds(yardstick):
    scores = {(cell.task, cell.optimizer): cell.score for cell in yardstick.cells}
    assert scores == {
        (LOGISTIC, "adam:lr=0.001"): pytest.approx(1.0),
        (LOGISTIC, "sgdn:lr=0.1"): pytest.approx(2.0),
        (LOGISTIC, "adamw:lr=0.001"): pytest.approx((0.05 + 100) / 2),
        (LOGISTIC, "prodigy"): pytest.approx(2.0),
        (LOGISTIC, "multirate:lr=1e-07"): pytest.approx(1.0),
        (LOGISTIC, "multirate:lr=0.01"): pytest.approx(4.0),
        (LOGISTIC, "multirate:lr=0.1"): pytest.approx((100 + 1) / 2),
        (QUADRATIC, "adam:lr=0.001"): pytest.approx(1.0),
        (QUADRATIC, "multirate:lr=1e-07"): pytest.approx(0.5),  # (0 + 1) / (1 + 1)
        (QUADRATIC, "multirate:lr=0.01"): pytest.approx(2.0),
    }


def test_a_method_is_the_geometric_mean_and_the_worst_with_high_starting_rates_apart(yardstick):
    ours = methods(yardstick)["multirate"]
    assert ours.score == pytest.approx((1 * 4 * 0.5 * 2) ** 0.25)
    assert (ours.worst.task, ours.worst.lr, ours.worst.score) == (LOGISTIC, 0.01, pytest.approx(4))
    assert ours.high == pytest.approx(50.5)
    assert ours.high_worst.lr == 0.1
    assert ours.by_task == {LOGISTIC: pytest.approx(2.0), QUADRATIC: pytest.approx(1.0)}
    assert ours.time == pytest.approx(2.0)
    assert (ours.diverged, ours.runs) == (1, 10)


def test_opponents_have_one_line_each(yardstick):
    found = methods(yardstick)
    assert list(found) == ["adam-tuned", "adamw-tuned", "sgdn-tuned", "prodigy", "multirate"]
    assert found["adam-tuned"].score == pytest.approx(1.0)
    assert found["prodigy"].high is None


def test_of_several_tuned_cells_the_best_one_counts(make_result):
    made = [make_result(f"adam:lr={lr}", 0, loss, task=LOGISTIC) for lr, loss in ((0.001, 0.4), (0.003, 0.2))]
    (method,) = score(made, {}).methods
    assert method.score == pytest.approx(1.0)


def test_steps_to_the_tuned_loss_are_counted_over_all_seeds(results):
    curves = {}
    for result in results:
        if (result.task, result.optimizer) == (LOGISTIC, "multirate:lr=1e-07"):
            # From 1.0 to 0.2 between steps 50 and 100, or never.
            last = 0.2 if result.seed == 0 else 0.3
            curves[result.trial] = {"epoch_step": [0, 50, 100], "test_loss": [2.0, 1.0, last]}
        elif (result.task, result.optimizer) == (LOGISTIC, "multirate:lr=0.01") and result.seed == 0:
            curves[result.trial] = {"epoch_step": [0, 50, 100], "test_loss": [2.0, 0.2, None]}
    ours = methods(score(results, curves))["multirate"]
    assert ours.reached.count == 3
    assert ours.reached.fraction == pytest.approx(2 / 3)
    assert ours.reached.median == pytest.approx(1.0)


def test_without_a_tuned_run_there_is_no_score(make_result):
    found = score([make_result("prodigy", 0, 0.5, task=LOGISTIC)], {})
    assert found.unmeasured == [LOGISTIC]
    assert not found.methods
    assert not found.cells


def test_levels_are_compared_on_the_same_tasks_and_seeds(make_result):
    losses = {"global/": (4.0, 2.0), "global/layer": (1.0, 1.0)}
    made = [
        make_result(f"multirate-adamw:levels={levels}:lr=0.001", seed, loss, task=LOGISTIC)
        for levels, values in losses.items()
        for seed, loss in enumerate(values)
    ]
    (test,) = score(made, {}).levels
    assert (test.first, test.second, test.count) == ("levels: global", "levels: global + layer", 2)
    assert test.ratio == pytest.approx(8**0.5)
    assert 0 < test.p < 1
