"""Means, errors and p-values."""

import pytest
from scipy.stats import sem, ttest_ind

from multirate.lab.stats import Estimate, estimate, p_text, summarise, welch


def test_estimate_is_the_mean_and_its_standard_error():
    values = [0.3, 0.1, 0.4, 0.1]
    assert estimate(values) == Estimate(pytest.approx(0.225), pytest.approx(float(sem(values))), 4)
    assert estimate([2.0]) == Estimate(2.0, None, 1)
    assert estimate([]) == Estimate(None, None, 0)


def test_estimates_as_text():
    assert Estimate(0.97821, 0.00121, 3).text(2, scale=100) == "97.82 ± 0.12"
    assert Estimate(0.5, None, 1).text(3) == "0.500"
    assert Estimate(None, None, 0).text(3) == "–"
    assert [p_text(p) for p in (None, 0.00099, 0.0421)] == ["–", "< 0.001", "0.042"]


def test_welch_agrees_with_scipy_on_the_raw_values():
    first, second = [0.3, 0.1, 0.4, 0.15], [0.5, 0.9, 0.6]
    assert welch(first, second) == pytest.approx(float(ttest_ind(first, second, equal_var=False).pvalue))


def test_welch_says_nothing_where_it_is_undefined():
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None


def test_summaries_compare_with_the_first_optimizer_of_the_same_task(make_result):
    losses = {"b": [0.2, 0.3], "a": [0.4, 0.6], "c": [None, 0.1]}
    results = [make_result(name, seed, loss) for name in losses for seed, loss in enumerate(losses[name])]
    results.append(make_result("b", 0, 0.9, task="u"))
    summaries = summarise(results, order=["a"])
    assert [(summary.task, summary.optimizer) for summary in summaries] == [
        ("digits/ffnn", "a"), ("digits/ffnn", "b"), ("digits/ffnn", "c"), ("u", "b"),
    ]  # fmt: skip
    a, b, c, elsewhere = summaries
    assert a.loss_p is None
    assert b.loss_p == pytest.approx(welch(losses["b"], losses["a"]))
    assert b.accuracy_p == pytest.approx(b.loss_p)
    assert (c.diverged, c.test_loss.count, c.loss_p) == (1, 1, None)
    assert elsewhere.loss_p is None
