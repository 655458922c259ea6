"""Claim by claim: what the papers report, what the results in a folder say, and a verdict."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import ttest_1samp, ttest_rel

from multirate.lab.judging.comparisons import compare_published, correct, p_text, welch_of_estimates
from multirate.lab.judging.estimates import Estimate, estimate
from multirate.lab.readings import READINGS
from multirate.lab.reporting.claim_rows import ClaimRow
from multirate.lab.results import TrialResult
from multirate.lab.storage import Storage
from multirate.lab.studies import figure2, readings, tuned
from multirate.lab.studies.published import BAYDIN_TEST_LOSS, FINAL_UNIT_WEIGHT, PUBLISHED

_FIRST_WEIGHT = 0.2

_BETTER_THAN: Mapping[str, Mapping[str, Sequence[str]]] = {
    "table2": {"adam-cam-hd": ("adam", "adam-hd", "adam-cam-hd-3")},
    "table3": {"adam-cam-hd": ("adam", "adam-hd", "adam-l4", "adabound", "radam")},
    "table4": {
        "adam-cam-hd": ("adam", "adam-hd"),
        "adabound-cam-hd": ("adabound",),
        "sgdn-cam-hd+step": ("sgdn+step",),
    },
}


def judge_claims(folder: Path) -> list[ClaimRow]:
    """Return all claims with what the studies in a folder say of them.

    Args:
        folder: Holds a folder for every study, named like it; a study that was not run has no figures.

    Raises:
        StorageError: If results cannot be read.
    """
    studies = [
        [*_accuracy_claims("table2", _results(folder, "table2"))],
        [*_reading_claims(_results(folder, "readings"))],
        [*_accuracy_claims("table3", _results(folder, "table3"))],
        [*_accuracy_claims("table4", _results(folder, "table4"))],
        [*_ratio_claims(_results(folder, "figure2"))],
        [*_weight_claims(folder / "weights")],
        [*_baydin_claims(_results(folder, "baydin"))],
        [*_tuned_claims(_results(folder, "tuned"))],
    ]
    return [
        dataclasses.replace(row, p_corrected=p)
        for rows in studies
        for row, p in zip(rows, correct([row.p for row in rows]), strict=True)
    ]


@dataclass(frozen=True)
class _Runs:
    """What some trials came to.

    Attributes:
        values: One number for each that did not diverge.
        diverged: How many did.
    """

    values: Sequence[float]
    diverged: int


def _accuracy_claims(study: str, results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    published = PUBLISHED[study]
    for task in dict.fromkeys(task for task, _ in published):
        for better, others in _BETTER_THAN[study].items():
            for worse in others:
                theirs = [published[task, name] for name in (better, worse)]
                pair = [Estimate(figure.mean, figure.standard_error, figure.count) for figure in theirs]
                text = f"{pair[0].mean:.2f} against {pair[1].mean:.2f}, p {p_text(welch_of_estimates(*pair))}"
                claim = f"{task}: {better} is more accurate than {worse}"
                ours = [_accuracies(results, task, name) for name in (better, worse)]
                yield _compared(study, task, claim, text, ours, digits=2)


def _reading_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    """Which reading of Eq. 35 leads to the figures of Table 2?"""
    for (task, optimizer), published in PUBLISHED["readings"].items():
        for reading in READINGS if optimizer != "adam" else ():
            ours = _accuracies(results, task, readings.variant(optimizer, reading))
            found = compare_published(ours.values, published.mean, published.standard_error, published.count)
            mean = estimate(ours.values)
            yield ClaimRow(
                "readings",
                task,
                f"{task}: {optimizer}, Eq. 35 read as {reading}, has the paper's accuracy",
                f"{published.mean:.2f} ± {published.standard_error:.2f}",
                "–" if mean.mean is None else f"{mean.text(2)} ({_counts(ours)})",
                found.difference,
                found.p,
                same=True,
            )


def _ratio_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    """Figure 2: the best ratio lies inside, most ratios beat the baseline, learned weights beat fixed ones.

    Ratios share their seeds, so that each seed counts once, by its mean over ratios, and tests are paired by seed.
    """
    [task] = figure2.TASKS
    means = {
        ratio: estimate(_accuracies(results, task, figure2.variant(ratio, figure2.WEIGHT_LR)).values).mean
        for ratio in figure2.RATIOS
    }
    known = {ratio: mean for ratio, mean in means.items() if mean is not None}
    complete = len(known) == len(means)
    baseline = estimate(_accuracies(results, task, "adam").values).mean
    learned = [figure2.variant(ratio, figure2.WEIGHT_LR) for ratio in figure2.RATIOS[1:-1]]
    fixed = [figure2.variant(ratio, 0.0) for ratio in figure2.RATIOS[1:-1]]
    ends = [figure2.variant(ratio, figure2.WEIGHT_LR) for ratio in (figure2.RATIOS[0], figure2.RATIOS[-1])]
    best = f"; best at {max(known, key=known.__getitem__):g}" if complete else ""
    above = sum(mean > baseline for mean in known.values()) if baseline is not None else 0
    count = f"; {above} of {len(known)} ratios above" if complete and baseline is not None else ""
    for claim, theirs, first, second, more in (
        ("mixtures are more accurate than one level alone", "the best ratio is a mixture", learned, ends, best),
        ("mixtures are more accurate than Adam", "most ratios are", learned, ["adam"], count),
        ("learned weights are more accurate than fixed ones", "they are", learned, fixed, ""),
    ):
        yield _paired(results, (task, claim, theirs), first, second, more)


def _weight_claims(folder: Path) -> Iterator[ClaimRow]:
    storage = Storage(folder)
    results = storage.results() if folder.exists() else []
    for (task, optimizer), published in FINAL_UNIT_WEIGHT.items():
        own = [result for result in results if (result.task, result.optimizer) == (task, optimizer)]
        final = [float(storage.curves(result.trial)["weights"]["unit"][-1]) for result in own if not result.diverged]
        runs = _Runs(final, sum(result.diverged for result in own))
        ours = estimate(final)
        rises = published > _FIRST_WEIGHT
        moved = None if ours.mean is None else (ours.mean - _FIRST_WEIGHT) * (1 if rises else -1)
        spread = ours.standard_error is not None and ours.standard_error > 0
        yield ClaimRow(
            "weights",
            task,
            f"{task}: {optimizer} {'raises' if rises else 'lowers'} the filter level's weight from {_FIRST_WEIGHT:.3f}",
            f"{published:.3f}",
            "–" if ours.mean is None else f"{ours.text(4)} ({_counts(runs)})",
            moved,
            float(ttest_1samp(final, _FIRST_WEIGHT).pvalue) if spread else None,
        )


def _baydin_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    for task in ("mnist/logistic", "mnist/mlp"):
        for base in ("sgd", "sgdn", "adam"):
            theirs = [BAYDIN_TEST_LOSS.get((task, name)) for name in (f"{base}-hd", base)]
            text = " against ".join("not kept" if loss is None else f"{loss:.4f}" for loss in theirs)
            ours = [_runs(results, task, [name], _gain) for name in (f"{base}-hd", base)]
            claim = f"{task}: {base}-hd ends at a lower test loss than {base}"
            yield _compared("baydin", task, claim, text, ours, digits=4)


def _tuned_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    for task in tuned.TASKS:
        found = {name: _accuracies(results, task, *method.all_candidates()) for name, method in tuned.METHODS.items()}
        levels = [name for name in found if name.startswith("levels")]
        for better, worse in (
            *((name, "levels: global") for name in levels if name != "levels: global"),
            *((name, "adam, tuned") for name in levels),
            ("multirate", "adam, tuned"),
            ("multirate", "prodigy"),
        ):
            claim = f"{task}: {better} is more accurate than {worse}"
            yield _compared("tuned", task, claim, "not tested", [found[better], found[worse]], digits=2)


def _compared(study: str, task: str, claim: str, theirs: str, ours: Sequence[_Runs], digits: int) -> ClaimRow:
    """Return the row of a claim that the first values are the higher ones; losses come with their sign changed."""
    first, second = (estimate(runs.values) for runs in ours)
    if first.mean is None or second.mean is None:
        return ClaimRow(study, task, claim, theirs, "–", None, None)
    texts = [values.text(digits).removeprefix("-") for values in (first, second)]
    return ClaimRow(
        study,
        task,
        claim,
        theirs,
        f"{texts[0]} against {texts[1]} ({_counts(*ours)})",
        first.mean - second.mean,
        welch_of_estimates(first, second),
    )


def _counts(*ours: _Runs) -> str:
    """Return on how many seeds figures rest, and how many diverged where any did."""
    seeds = ", ".join(str(len(runs.values)) for runs in ours)
    diverged = ", ".join(str(runs.diverged) for runs in ours)
    return f"n {seeds}" + (f"; diverged {diverged}" if any(runs.diverged for runs in ours) else "")


def _paired(
    results: Sequence[TrialResult],
    told: tuple[str, str, str],
    first: Sequence[str],
    second: Sequence[str],
    more: str,
) -> ClaimRow:
    """Return the row of a claim that some variants are more accurate than others, tested by seed.

    Args:
        results: Of the study.
        told: The task, the claim and what the paper has.
        first: The variants that should be better.
        second: The others.
        more: What else our figures say.
    """
    task, claim, theirs = told
    means = [_by_seed(results, task, optimizers) for optimizers in (first, second)]
    seeds = sorted(means[0].keys() & means[1].keys())
    differences = estimate([means[0][seed] - means[1][seed] for seed in seeds])
    if differences.mean is None:
        return ClaimRow("figure2", task, claim, theirs, "–", None, None)
    spread = differences.standard_error is not None and differences.standard_error > 0
    pairs = [[side[seed] for seed in seeds] for side in means]
    runs = _Runs(seeds, _accuracies(results, task, *first, *second).diverged)
    return ClaimRow(
        "figure2",
        task,
        claim,
        theirs,
        f"{differences.text(2)} points ({_counts(runs)}){more}",
        differences.mean,
        float(ttest_rel(*pairs).pvalue) if spread else None,
    )


def _by_seed(results: Sequence[TrialResult], task: str, optimizers: Sequence[str]) -> dict[int, float]:
    """Return the mean accuracy over optimizers, in per cent, of every seed that has them all."""
    found: dict[int, list[float]] = {}
    for result in results:
        if result.task == task and result.optimizer in optimizers and result.test_accuracy is not None:
            found.setdefault(result.seed, []).append(100 * result.test_accuracy)
    return {seed: statistics.fmean(values) for seed, values in found.items() if len(values) == len(optimizers)}


def _accuracies(results: Sequence[TrialResult], task: str, *optimizers: str) -> _Runs:
    return _runs(results, task, optimizers, _per_cent)


def _runs(
    results: Sequence[TrialResult],
    task: str,
    optimizers: Sequence[str],
    measure: Callable[[TrialResult], float | None],
) -> _Runs:
    own = [result for result in results if result.task == task and result.optimizer in optimizers]
    values = [value for result in own if (value := measure(result)) is not None]
    return _Runs(values, sum(result.diverged for result in own))


def _per_cent(result: TrialResult) -> float | None:
    return None if result.test_accuracy is None else 100 * result.test_accuracy


def _gain(result: TrialResult) -> float | None:
    return None if result.test_loss is None else -result.test_loss


def _results(folder: Path, study: str) -> list[TrialResult]:
    path = folder / study
    return Storage(path).results() if path.exists() else []
