"""What the lines of a table say."""

import pytest

from multirate.lab.judging.comparisons import Comparison, correct, welch
from multirate.lab.judging.targets import Reached
from multirate.lab.reporting.summaries import summarise, text_of_difference, text_of_interval, text_of_reached


def test_summaries_compare_with_the_first_optimizer_of_the_same_task(make_result):
    losses = {"b": [0.2, 0.3], "a": [0.4, 0.6], "c": [None, 0.1], "d": [0.9, 0.8]}
    results = [make_result(name, seed, loss) for name in losses for seed, loss in enumerate(losses[name])]
    results.append(make_result("b", 0, 0.9, task="u"))
    summaries = summarise(results, order=["a"])
    assert [(summary.task, summary.optimizer) for summary in summaries] == [
        ("digits/ffnn", "a"), ("digits/ffnn", "b"), ("digits/ffnn", "c"), ("digits/ffnn", "d"), ("u", "b"),
    ]  # fmt: skip
    a, b, c, d, elsewhere = summaries
    assert a.against == elsewhere.against == []
    assert {tuple(summary.baselines) for summary in (a, b, c, d)} == {("a",)}
    assert [each.baseline for each in b.against] == ["a"]
    assert b.against[0].loss.p == pytest.approx(welch(losses["b"], losses["a"]))
    assert b.against[0].loss.difference == pytest.approx(-0.25)
    assert b.against[0].accuracy.difference == pytest.approx(0.25)
    assert (c.diverged, c.test_loss.count, c.against[0].loss.p) == (1, 1, None)


def test_losses_and_accuracies_against_all_baselines_of_a_task_are_corrected_together(make_result):
    losses = {"a": [0.4, 0.6], "b": [0.2, 0.3], "c": [0.1, 0.12], "d": [0.9, 0.8]}
    results = [make_result(name, seed, loss) for name in losses for seed, loss in enumerate(losses[name])]
    results += [make_result(name, seed, 1 + 2 * seed, task="u") for name in "ac" for seed in (0, 1)]
    summaries = summarise(results, list("dcba"), baselines=["b", "a", "missing"])
    assert [(summary.task, summary.optimizer) for summary in summaries] == [
        *(("digits/ffnn", name) for name in "badc"), ("u", "a"), ("u", "c"),
    ]  # fmt: skip
    pairs = [(summary.optimizer, each) for summary in summaries[:4] for each in summary.against]
    assert [(name, each.baseline) for name, each in pairs] == [("d", "b"), ("d", "a"), ("c", "b"), ("c", "a")]
    found = [each.loss for _, each in pairs] + [each.accuracy for _, each in pairs]
    assert [each.p_corrected for each in found] == pytest.approx(correct([each.p for each in found]))
    accuracies = {name: [1 - loss for loss in values] for name, values in losses.items()}
    assert found[4].p == welch(accuracies["d"], accuracies["b"])
    assert summaries[0].target == pytest.approx(0.25)
    # A task without the first baseline has the other one.
    assert list(summaries[-1].baselines) == ["a"]
    assert list(summarise(results, [], baselines=["missing"])[0].baselines) == ["a"]


def test_the_target_is_the_baselines_final_loss_and_all_seeds_count(make_result):
    results = [make_result("a", 0, 0.4), make_result("a", 1, 0.6), make_result("b", 0, 0.3), make_result("b", 1, None)]
    axes = {"epoch_step": [0, 10, 20], "epoch_seconds": [0.0, 1.0, 3.0]}
    losses = [[1.0, 0.75, 0.4], [1.0, 0.7, 0.6], [0.9, 0.1, 0.3], [0.9, None, None]]
    curves = {result.trial: {**axes, "test_loss": loss} for result, loss in zip(results, losses, strict=True)}
    a, b = summarise(results, ["a"], curves)
    assert a.target == b.target == pytest.approx(0.5)
    # 0.75 → 0.4 passes 0.5 after 5/7 of the way; the second seed never gets there.
    assert a.steps_to_target == Reached(None, 0.5, 2)
    assert b.steps_to_target == Reached(None, 0.5, 2)
    (alone,) = summarise(results[:1], [], {results[0].trial: {**axes, "test_loss": [1.0, 0.75, 0.4]}})
    assert alone.steps_to_target == Reached(pytest.approx(20), 1.0, 1)
    assert alone.seconds_to_target == Reached(pytest.approx(3), 1.0, 1)
    old = summarise(results, ["a"], {result.trial: {"test_loss": [1.0]} for result in results})
    assert all(summary.steps_to_target is None and summary.seconds_to_target is None for summary in old)


def test_the_best_epoch_is_the_median_of_what_is_known(make_result):
    results = [make_result("a", seed, 0.5, best_epoch=epoch) for seed, epoch in enumerate((3, None, 8, 4))]
    assert summarise(results, [])[0].best_epoch == 4


def test_texts():
    comparison = Comparison(-0.01234, (-0.02, 0.004), 0.5, 0.5)
    assert text_of_difference(comparison, 2, scale=100) == "−1.23"
    assert text_of_interval(comparison, 2, scale=100) == "[−2.00, +0.40]"
    assert (text_of_difference(None, 2), text_of_interval(None, 2)) == ("–", "")
    huge = Comparison(2.5e9, (-2e9, 3e9), None, None)
    assert (text_of_difference(huge, 2), text_of_interval(huge, 2)) == ("+2.500e+09", "[−2.000e+09, +3.000e+09]")
    small = Comparison(3e-5, (-0.002, 0.0017), None, None)
    assert (text_of_difference(small, 4), text_of_interval(small, 4)) == ("+0.0000", "[−0.0020, +0.0017]")
    assert text_of_reached(None, 0) == "–"
    assert text_of_reached(Reached(12.4, 1.0, 3), 0) == "12"
    assert text_of_reached(Reached(12.4, 2 / 3, 3), 1) == "12.4 (2/3)"
    assert text_of_reached(Reached(None, 1 / 3, 3), 1) == "– (1/3)"
    assert text_of_reached(Reached(None, 0.0, 3), 1) == "never"


def test_a_single_seed_reaches_its_own_final_loss(make_result):
    loss = 0.945273456789
    result = make_result("adam", 0, loss)
    curves = {"epoch_step": [0, 45], "epoch_seconds": [0.0, 1.0], "test_loss": [2.3, float(f"{loss:.6g}")]}
    [summary] = summarise([result], ["adam"], {result.trial: curves})
    assert summary.steps_to_target.median == 45


def test_the_baseline_of_a_sweep_is_the_first_optimizer_at_its_best_rate(make_result):
    losses = {"adam:lr=1e-06": 2.3, "adam:lr=0.001": 0.1, "adam:lr=1.0": 2.4, "sgd:lr=0.1": 0.2}
    results = [make_result(name, seed, loss + 0.01 * seed) for name, loss in losses.items() for seed in (0, 1)]
    summaries = summarise(results, list(losses))
    assert summaries[0].optimizer == "adam:lr=0.001"
    assert summaries[0].against == []
    assert summaries[-1].against[0].loss.difference == pytest.approx(0.1)
    named = summarise(results, list(losses), baselines=["sgd", "adam"])
    assert named[0].baselines == ["sgd:lr=0.1", "adam:lr=0.001"]
