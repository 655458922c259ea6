"""What the tables say, before they are drawn, and that nothing is lost where they are."""

import pytest

from multirate.lab.judging.profiles import performance_profiles
from multirate.lab.reporting.families import find_families
from multirate.lab.reporting.result_tables import (
    comparison_table,
    profile_table,
    robustness_table,
    summary_table,
    task_tables,
)
from multirate.lab.reporting.summaries import summarise
from multirate.lab.tables import open_console, result_table


def columns(table):
    """Return the texts of a table by heading."""
    return {heading.text: [row[index].text for row in table.rows] for index, heading in enumerate(table.headings)}


@pytest.fixture
def results(make_result):
    losses = {"adam": [0.25, 0.375], "adam-hd": [0.5, 0.625], "multirate": [0.125, None]}
    return [make_result(name, seed, loss) for name in losses for seed, loss in enumerate(losses[name])]


def test_results_with_one_baseline_have_the_comparisons_beside(results):
    table = summary_table(summarise(results, []))
    found = columns(table)
    assert list(found) == [
        "optimizer", "test loss", "difference", "p", "accuracy %", "difference %", "p of accuracy", "n", "diverged",
        "seconds",
    ]  # fmt: skip
    assert found["difference"] == ["–", "+0.2500", "−0.1875"]
    assert found["diverged"] == ["–", "–", "1"]
    assert [row[1].best for row in table.rows] == [False, False, True]
    assert [row[4].best for row in table.rows] == [False, False, True]
    assert table.rows[1][2].below.startswith("[+0.1")
    assert "Differences: to adam." in table.explanation
    assert "all tests of this table, losses and accuracies together" in table.explanation
    assert task_tables(summarise(results, []), []) == [table]


def test_results_with_several_baselines_have_a_table_of_pairs(results):
    summaries = summarise(results, [], baselines=["adam", "adam-hd"])
    results_table, pairs = task_tables(summaries, [])
    assert "difference" not in columns(results_table)
    assert pairs == comparison_table(summaries)
    found = columns(pairs)
    assert found["optimizer"] == ["multirate", "multirate"]
    assert found["baseline"] == ["adam", "adam-hd"]
    assert found["difference"] == ["−0.1875", "−0.4375"]
    assert found["difference %"] == ["+18.75", "+43.75"]


def test_where_all_are_baselines_they_are_compared_with_the_first(results):
    summaries = summarise(results, [], baselines=["adam-hd", "adam", "multirate"])
    assert {tuple(summary.baselines) for summary in summaries} == {("adam-hd",)}
    assert columns(summary_table(summaries))["difference"] == ["–", "−0.2500", "−0.4375"]


def test_a_single_optimizer_is_compared_with_nothing(results):
    table = summary_table(summarise(results[:2], []))
    assert "p" not in columns(table)
    assert "Differences" not in table.explanation


def test_robustness_tells_how_far_from_the_best_rate_an_optimizer_still_does_well(make_result):
    losses = {
        "adam": {1e-4: 2.0, 1e-3: 1.0, 1e-2: 1.05, 1e-1: 4.15},
        "multirate": {1e-4: 1.0, 1e-3: 1.0, 1e-2: 1.0, 1e-1: 1.0},
        "sgd": {1e-2: None, 1e-1: None, 1.0: None},
        "odd": {1e-2: 0.0, 1e-1: 1.0, 1.0: 2.0},
    }
    results = [make_result(f"{name}:lr={lr}", 0, loss) for name, curve in losses.items() for lr, loss in curve.items()]
    found = columns(robustness_table(find_families(results)))
    assert found["optimizer"] == ["adam", "multirate", "sgd", "odd"]
    assert found["best rate"] == ["0.001", "0.0001", "–", "0.01"]
    assert found["loss there"] == ["1.0000", "1.0000", "–", "0.0000"]
    # A tenth of the way up from 1e-4, and (1.1 - 1.05) / 3.1 of the way from 1e-2 to 1e-1.
    assert found["rates within 1.1×"] == ["0.00079 to 0.01", "0.0001 to 0.1", "–", "–"]
    assert found["decades within 1.1×"] == ["1.1", "≥ 3.0", "–", "–"]
    assert found["rates within 2×"][0] == "0.0001 to 0.02"
    assert found["decades within 2×"][0] == "≥ 2.3"


def test_profiles_have_their_area_beside(make_result):
    profiles = performance_profiles({"t": {"a": 1.0, "b": 2.0}, "u": {"a": 1.0, "b": 9.0}})
    table = profile_table(profiles)
    found = columns(table)
    assert found["method"] == ["a", "b"]
    # b is within a factor of 2 and more on one of two tasks: two thirds of the way from 1 to 4.
    assert found["score"] == ["1.000", "0.333"]
    assert found["lowest loss on"] == ["100 % of tasks", "0 % of tasks"]
    assert [row[1].best for row in table.rows] == [True, False]


def test_the_terminal_breaks_names_before_numbers(make_result):
    name = "adam-cam-hd:hyper_lr=1e-07:levels=global/layer:weight_lr=0.01:weights=0.5/0.5+warmup-cosine"
    results = [make_result(each, seed, 0.25 + 0.125 * seed) for each in ("adam", name) for seed in (0, 1)]
    console = open_console()
    console.width = 100
    with console.capture() as captured:
        console.print(result_table(summary_table(summarise(results, [])), "digits/ffnn"))
    text = captured.get()
    assert "…" not in text
    assert text.count("0.3125 ± 0.0625") == 2
