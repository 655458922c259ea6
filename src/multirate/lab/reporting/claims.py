"""Claim by claim: what the papers report, what the results in a folder say, and a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from multirate.lab.judging.comparisons import correct, p_text, welch_of_estimates
from multirate.lab.judging.estimates import Estimate, estimate
from multirate.lab.readings import READINGS
from multirate.lab.reporting.claim import Claim, Runs, accuracies, gains
from multirate.lab.reporting.claim_rows import NOT_TESTED, ClaimRow
from multirate.lab.results import TrialResult
from multirate.lab.storage import Storage
from multirate.lab.studies import figure2, readings, tuned
from multirate.lab.studies.published import (
    BAYDIN_TEST_LOSS,
    EARLY_ACCURACY,
    EARLY_EPOCHS,
    FINAL_UNIT_WEIGHT,
    PUBLISHED,
)

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
        [*_accuracy_claims("table4", _results(folder, "table4")), *_early_claims(folder)],
        [*_ratio_claims(_results(folder, "figure2"))],
        [*_weight_claims(folder)],
        [*_baydin_claims(_results(folder, "baydin"))],
        [*_tuned_claims(_results(folder, "tuned"))],
    ]
    return [
        dataclasses.replace(row, p_corrected=p)
        for rows in studies
        for row, p in zip(rows, correct([row.p for row in rows]), strict=True)
    ]


def _accuracy_claims(study: str, results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    published = PUBLISHED[study]
    for task in dict.fromkeys(task for task, _ in published):
        for better, others in _BETTER_THAN[study].items():
            for worse in others:
                theirs = [published[task, name] for name in (better, worse)]
                pair = [Estimate(figure.mean, figure.standard_error, figure.count) for figure in theirs]
                text = f"{pair[0].mean:.2f} against {pair[1].mean:.2f}, p {p_text(welch_of_estimates(*pair))}"
                claim = Claim(study, task, f"{task}: {better} is more accurate than {worse}", text)
                yield claim.of_two(accuracies(results, task, better), accuracies(results, task, worse), digits=2)


def _early_claims(folder: Path) -> Iterator[ClaimRow]:
    """How far a ResNet is after the first epochs: the best of its accuracies until then."""

    def best(curves: Mapping[str, Any]) -> float:
        by_epoch = zip(curves["epoch"], curves["test_accuracy"], strict=True)
        return max(100 * float(accuracy) for epoch, accuracy in by_epoch if epoch <= EARLY_EPOCHS)

    results = _results(folder, "table4")
    for task in dict.fromkeys(task for task, _ in PUBLISHED["table4"]):
        text = f"{task}: adam-cam-hd reaches {EARLY_ACCURACY:g} % by epoch {EARLY_EPOCHS}"
        runs = _of_curves(Storage(folder / "table4"), results, (task, "adam-cam-hd"), best)
        yield Claim("table4", task, text, f"about {EARLY_ACCURACY:g}").of_number(runs, EARLY_ACCURACY, digits=2)


def _reading_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    """Which reading of Eq. 35 leads to the figures of Table 2?"""
    for (task, optimizer), published in PUBLISHED["readings"].items():
        for reading in READINGS if optimizer != "adam" else ():
            text = f"{task}: {optimizer}, Eq. 35 read as {reading}, has the paper's accuracy"
            claim = Claim("readings", task, text, f"{published.mean:.2f} ± {published.standard_error:.2f}")
            yield claim.of_sameness(accuracies(results, task, readings.variant(optimizer, reading)), published)


def _ratio_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    """Figure 2: the best ratio lies inside, most ratios beat the baseline, learned weights beat fixed ones.

    Ratios share their seeds, so that each seed counts once, by its mean over ratios, and tests are paired by seed.
    """
    [task] = figure2.TASKS
    means = {
        ratio: estimate(accuracies(results, task, figure2.variant(ratio, figure2.WEIGHT_LR)).values).mean
        for ratio in figure2.RATIOS
    }
    known = {ratio: mean for ratio, mean in means.items() if mean is not None}
    complete = len(known) == len(means)
    baseline = estimate(accuracies(results, task, "adam").values).mean
    learned = [figure2.variant(ratio, figure2.WEIGHT_LR) for ratio in figure2.RATIOS[1:-1]]
    fixed = [figure2.variant(ratio, 0.0) for ratio in figure2.RATIOS[1:-1]]
    ends = [figure2.variant(ratio, figure2.WEIGHT_LR) for ratio in (figure2.RATIOS[0], figure2.RATIOS[-1])]
    best = f"; best at {max(known, key=known.__getitem__):g}" if complete else ""
    above = sum(mean > baseline for mean in known.values()) if baseline is not None else 0
    count = f"; {above} of {len(known)} ratios above" if complete and baseline is not None else ""
    for text, theirs, first, second, more in (
        ("mixtures are more accurate than one level alone", "the best ratio is a mixture", learned, ends, best),
        ("mixtures are more accurate than Adam", "most ratios are", learned, ["adam"], count),
        ("learned weights are more accurate than fixed ones", "they are", learned, fixed, ""),
    ):
        yield Claim("figure2", task, text, theirs).of_pairs(results, first, second, more)


def _weight_claims(folder: Path) -> Iterator[ClaimRow]:
    results = _results(folder, "weights")
    for (task, optimizer), published in FINAL_UNIT_WEIGHT.items():
        runs = _of_curves(
            Storage(folder / "weights"), results, (task, optimizer), lambda curves: float(curves["weights"]["unit"][-1])
        )
        falls = published < _FIRST_WEIGHT
        verb = "lowers" if falls else "raises"
        text = f"{task}: {optimizer} {verb} the filter level's weight from {_FIRST_WEIGHT:.3f}"
        claim = Claim("weights", task, text, f"{published:.3f}")
        yield claim.of_number(runs, _FIRST_WEIGHT, digits=4, below=falls)


def _baydin_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    for task in ("mnist/logistic", "mnist/mlp"):
        for base in ("sgd", "sgdn", "adam"):
            adapted = f"{base}-hd"
            theirs = [BAYDIN_TEST_LOSS.get((task, name)) for name in (adapted, base)]
            text = " against ".join("not kept" if loss is None else f"{loss:.4f}" for loss in theirs)
            claim = Claim("baydin", task, f"{task}: {adapted} ends at a lower test loss than {base}", text)
            yield claim.of_two(gains(results, task, adapted), gains(results, task, base), digits=4)


def _tuned_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    levels = [name for name in tuned.METHODS if name.startswith("levels")]
    mixtures = [name for name in levels if " and " in name]
    pairs = [
        *((name, "levels: global") for name in levels if name != "levels: global"),
        *((name, tuned.BASELINES[0]) for name in levels if name not in mixtures),
        *((name, baseline) for name in [*mixtures, "multirate"] for baseline in tuned.BASELINES),
    ]
    for task in tuned.TASKS:
        found = {name: accuracies(results, task, *method.all_candidates()) for name, method in tuned.METHODS.items()}
        for better, worse in pairs:
            claim = Claim("tuned", task, f"{task}: {better} is more accurate than {worse}", NOT_TESTED)
            yield claim.of_two(found[better], found[worse], digits=2)


def _of_curves(
    storage: Storage,
    results: Sequence[TrialResult],
    cell: tuple[str, str],
    measure: Callable[[Mapping[str, Any]], float],
) -> Runs:
    """Return what the curves of a task's and an optimizer's trials come to."""
    own = [result for result in results if (result.task, result.optimizer) == cell]
    values = [measure(storage.curves(result.trial)) for result in own if not result.diverged]
    return Runs(values, sum(result.diverged for result in own))


def _results(folder: Path, study: str) -> list[TrialResult]:
    path = folder / study
    return Storage(path).results() if path.exists() else []
