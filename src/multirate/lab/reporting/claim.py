"""A claim, what trials came to, and the tests of the one on the other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.stats import ttest_1samp, ttest_rel

from multirate.lab.judging.comparisons import compare_published, welch_of_estimates
from multirate.lab.judging.estimates import Estimate, estimate
from multirate.lab.reporting.claim_rows import ClaimRow
from multirate.lab.results import TrialResult
from multirate.lab.studies.published import Published


@dataclass(frozen=True)
class Runs:
    """What some trials came to.

    Attributes:
        values: One number for each that did not diverge.
        diverged: How many did.
    """

    values: Sequence[float]
    diverged: int


@dataclass(frozen=True)
class Claim:
    """What is claimed; its methods make a row of it.

    Attributes:
        study: Name of the study that tests it.
        task: Name of the task.
        text: In words.
        theirs: The published figures.
    """

    study: str
    task: str
    text: str
    theirs: str

    def of_two(self, first: Runs, second: Runs, digits: int) -> ClaimRow:
        """The first values are the higher ones, by Welch's test; losses come with their sign changed.

        Args:
            first: Values that should be higher.
            second: The others.
            digits: Decimals of their means.
        """
        pair = estimate(first.values), estimate(second.values)
        if pair[0].mean is None or pair[1].mean is None:
            return self._without_results()
        texts = [values.text(digits).removeprefix("-") for values in pair]
        return self._row(
            f"{texts[0]} against {texts[1]} ({_counts(first, second)})",
            pair[0].mean - pair[1].mean,
            welch_of_estimates(*pair),
        )

    def of_number(self, runs: Runs, number: float, digits: int, *, below: bool = False) -> ClaimRow:
        """All values come from a distribution whose mean lies above a number, by Student's test.

        Args:
            runs: The values.
            number: What they are compared with.
            digits: Decimals of their mean.
            below: The mean lies below instead.
        """
        mean = estimate(runs.values)
        if mean.mean is None:
            return self._without_results()
        p = float(ttest_1samp(runs.values, number).pvalue) if _spread(mean) else None
        difference = mean.mean - number
        return self._row(f"{mean.text(digits)} ({_counts(runs)})", -difference if below else difference, p)

    def of_sameness(self, runs: Runs, published: Published) -> ClaimRow:
        """Our mean is no other than the published one, by Welch's test."""
        mean = estimate(runs.values)
        if mean.mean is None:
            return self._without_results(same=True)
        found = compare_published(runs.values, published.mean, published.standard_error, published.count)
        return self._row(f"{mean.text(2)} ({_counts(runs)})", found.difference, found.p, same=True)

    def of_pairs(
        self, results: Sequence[TrialResult], first: Sequence[str], second: Sequence[str], more: str
    ) -> ClaimRow:
        """Some variants are more accurate than others, by Student's test paired by seed.

        Args:
            results: Of the study.
            first: The variants that should be better.
            second: The others.
            more: What else our figures say.
        """
        means = [_by_seed(results, self.task, optimizers) for optimizers in (first, second)]
        seeds = sorted(means[0].keys() & means[1].keys())
        differences = estimate([means[0][seed] - means[1][seed] for seed in seeds])
        if differences.mean is None:
            return self._without_results()
        pairs = [[side[seed] for seed in seeds] for side in means]
        runs = Runs(seeds, accuracies(results, self.task, *first, *second).diverged)
        p = float(ttest_rel(*pairs).pvalue) if _spread(differences) else None
        return self._row(f"{differences.text(2)} points ({_counts(runs)}){more}", differences.mean, p)

    def _row(self, ours: str, difference: float | None, p: float | None, *, same: bool = False) -> ClaimRow:
        return ClaimRow(self.study, self.task, self.text, self.theirs, ours, difference, p, same)

    def _without_results(self, *, same: bool = False) -> ClaimRow:
        return self._row("–", None, None, same=same)


def accuracies(results: Sequence[TrialResult], task: str, *optimizers: str) -> Runs:
    """Return the test accuracies of some variants, in per cent."""
    return _runs(results, task, optimizers, _per_cent)


def gains(results: Sequence[TrialResult], task: str, *optimizers: str) -> Runs:
    """Return the test losses of some variants with their sign changed, so that more is better."""
    return _runs(results, task, optimizers, _gain)


def _runs(
    results: Sequence[TrialResult],
    task: str,
    optimizers: Sequence[str],
    measure: Callable[[TrialResult], float | None],
) -> Runs:
    own = [result for result in results if result.task == task and result.optimizer in optimizers]
    values = [value for result in own if (value := measure(result)) is not None]
    return Runs(values, sum(result.diverged for result in own))


def _per_cent(result: TrialResult) -> float | None:
    return None if result.test_accuracy is None else 100 * result.test_accuracy


def _gain(result: TrialResult) -> float | None:
    return None if result.test_loss is None else -result.test_loss


def _by_seed(results: Sequence[TrialResult], task: str, optimizers: Sequence[str]) -> dict[int, float]:
    """Return the mean accuracy over optimizers, in per cent, of every seed that has them all."""
    found: dict[int, list[float]] = {}
    for result in results:
        if result.task == task and result.optimizer in optimizers and result.test_accuracy is not None:
            found.setdefault(result.seed, []).append(100 * result.test_accuracy)
    return {seed: statistics.fmean(values) for seed, values in found.items() if len(values) == len(optimizers)}


def _counts(*ours: Runs) -> str:
    """Return on how many seeds figures rest, and how many diverged where any did."""
    seeds = ", ".join(str(len(runs.values)) for runs in ours)
    diverged = ", ".join(str(runs.diverged) for runs in ours)
    return f"n {seeds}" + (f"; diverged {diverged}" if any(runs.diverged for runs in ours) else "")


def _spread(values: Estimate) -> bool:
    return values.standard_error is not None and values.standard_error > 0
