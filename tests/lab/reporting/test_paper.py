"""The paper's figures beside ours."""

import pytest

from multirate.lab.judging.comparisons import compare_published, correct
from multirate.lab.reporting.paper import compare_with_paper
from multirate.lab.reporting.result_tables import paper_table
from multirate.lab.studies import readings
from multirate.lab.studies.published import PUBLISHED
from multirate.lab.tables import open_console, result_table

TASK = "mnist/ffnn-100-100"


@pytest.fixture
def results(make_result):
    accuracies = {
        "adam": [0.9780, 0.9805, 0.9790],
        "adam-cam-hd": [0.95, 0.951, 0.9505],
        "adam-cam-hd:reading=means": [0.99, 0.991, 0.9905],
        "adam-hd+cosine": [0.5, 0.5, 0.5],
    }
    return [
        make_result(name, seed, 0.1, task=TASK, test_accuracy=value)
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def test_every_published_cell_has_a_row_and_every_variant_of_ours_too(results):
    rows = compare_with_paper(results, "table2")
    published = PUBLISHED["table2"]
    assert {(row.task, row.optimizer.partition(":")[0]) for row in rows} == set(published)
    assert len(rows) == len(published) + 1
    own = {row.optimizer: row for row in rows if row.task == TASK}
    assert [own[name].mark for name in ("adam", "adam-cam-hd", "adam-cam-hd:reading=means")] == ["≈", "▼", "▲"]
    # A schedule makes another method of it, so that the paper's stays without ours.
    assert (own["adam-hd"].ours.count, own["adam-hd"].mark, own["adam-hd"].our_text) == (0, "–", "–")
    assert own["adam"].paper_text == "97.93 (0.09)"
    assert own["adam"].our_text == "97.92 (0.07)"


def test_the_test_is_welchs_from_the_published_error_corrected_over_all_rows(results):
    rows = {row.optimizer: row for row in compare_with_paper(results, "table2") if row.task == TASK}
    adam = compare_published([97.80, 98.05, 97.90], 97.93, 0.09, 10)
    assert rows["adam"].comparison.p == pytest.approx(adam.p)
    assert rows["adam"].comparison.difference == pytest.approx((97.80 + 98.05 + 97.90) / 3 - 97.93)
    tested = [row for row in rows.values() if row.comparison.p is not None]
    assert [row.comparison.p_corrected for row in tested] == pytest.approx(
        correct([row.comparison.p for row in tested])
    )


def test_readings_stand_beside_the_figures_of_table_2(make_result):
    made = [
        make_result(readings.variant("adam-cam-hd", reading), seed, 0.1, task=TASK, test_accuracy=0.98 + 0.001 * seed)
        for reading in ("means", "sums")
        for seed in (0, 1)
    ]
    own = [row for row in compare_with_paper(made, "readings") if row.task == TASK]
    assert [(row.optimizer, row.paper_text) for row in own] == [
        ("adam-cam-hd-3", "97.91 (0.07)"), ("adam-cam-hd:reading=means", "98.12 (0.06)"),
        ("adam-cam-hd", "98.12 (0.06)"), ("adam", "97.93 (0.09)"),
    ]  # fmt: skip


def test_no_table_without_a_matching_cell(results, make_result):
    assert compare_with_paper(results, "table3") == []
    assert compare_with_paper(results, None) == []
    assert compare_with_paper([make_result("adam", 0, 0.1)], "table2") == []


def test_the_terminal_shows_it(results):
    console = open_console()
    with console.capture() as captured:
        console.print(result_table(paper_table(compare_with_paper(results, "table2")), "all tasks"))
    for part in ("97.93 (0.09)", "97.92 (0.07)", "▲", "▼", "−0.01"):
        assert part in captured.get()
