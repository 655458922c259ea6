"""Claim by claim: what the papers report, what the results in a folder say, and a verdict."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import ttest_1samp, ttest_rel

from multirate.lab.judging.comparisons import correct, p_text, welch_of_estimates
from multirate.lab.judging.estimates import Estimate, estimate
from multirate.lab.markdown import markdown_table
from multirate.lab.results import TrialResult
from multirate.lab.storage import Storage
from multirate.lab.studies import figure2, tuned
from multirate.lab.studies.published import BAYDIN_TEST_LOSS, FINAL_UNIT_WEIGHT, PUBLISHED

LEVEL = 0.05

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


@dataclass(frozen=True)
class ClaimRow:
    """One claim and what became of it.

    Attributes:
        study: Name of the study that tests it.
        claim: In words.
        theirs: The published figures, with the p-value that follows from them.
        ours: Our figures.
        difference: How far ours go in the claimed direction; None without results.
        p: Two-sided p-value on ours; None where it is undefined.
        p_corrected: The same, corrected by Holm's method for all claims of the study.
    """

    study: str
    claim: str
    theirs: str
    ours: str
    difference: float | None
    p: float | None
    p_corrected: float | None = None

    @property
    def verdict(self) -> str:
        """What may be concluded."""
        if self.difference is None:
            return "no results"
        if self.p_corrected is None:
            return "too few seeds"
        if self.p_corrected >= LEVEL:
            return "not established"
        return "reproduced" if self.difference > 0 else "contradicted"

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        return self.study, self.claim, self.theirs, self.ours, p_text(self.p_corrected), self.verdict


HEADINGS = ("study", "claim", "theirs", "ours", "p", "verdict")


def judge_claims(folder: Path) -> list[ClaimRow]:
    """Return all claims with what the studies in a folder say of them.

    Args:
        folder: Holds a folder for every study, named like it; a study that was not run has no figures.

    Raises:
        StorageError: If results cannot be read.
    """
    studies = [
        [*_accuracy_claims("table2", _results(folder, "table2"))],
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


def markdown(rows: Iterable[ClaimRow]) -> str:
    """Return claims as a table in Markdown."""
    return markdown_table([dict(zip(HEADINGS, row.cells(), strict=True)) for row in rows], len(HEADINGS))


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
                yield _compared(study, claim, text, ours, digits=2)


def _ratio_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    """Figure 2: the best ratio lies inside, most ratios beat the baseline, learned weights beat fixed ones.

    Ratios share their seeds, so that each seed counts once, by its mean over ratios, and tests are paired by seed.
    """
    [task] = figure2.TASKS
    means = {
        ratio: estimate(_accuracies(results, task, figure2.variant(ratio, figure2.WEIGHT_LR))).mean
        for ratio in figure2.RATIOS
    }
    known = {ratio: mean for ratio, mean in means.items() if mean is not None}
    complete = len(known) == len(means)
    baseline = estimate(_accuracies(results, task, "adam")).mean
    learned = _by_seed(results, task, [figure2.variant(ratio, figure2.WEIGHT_LR) for ratio in figure2.RATIOS[1:-1]])
    fixed = _by_seed(results, task, [figure2.variant(ratio, 0.0) for ratio in figure2.RATIOS[1:-1]])
    ends = _by_seed(
        results, task, [figure2.variant(ratio, figure2.WEIGHT_LR) for ratio in (figure2.RATIOS[0], figure2.RATIOS[-1])]
    )
    adam = _by_seed(results, task, ["adam"])
    best = f"; best at {max(known, key=known.__getitem__):g}" if complete else ""
    yield _paired("mixtures are more accurate than one level alone", "the best ratio is a mixture", learned, ends, best)
    above = sum(mean > baseline for mean in known.values()) if baseline is not None else 0
    count = f"; {above} of {len(known)} ratios above" if complete and baseline is not None else ""
    yield _paired("mixtures are more accurate than Adam", "most ratios are", learned, adam, count)
    yield _paired("learned weights are more accurate than fixed ones", "they are", learned, fixed, "")


def _weight_claims(folder: Path) -> Iterator[ClaimRow]:
    storage = Storage(folder)
    results = storage.results() if folder.exists() else []
    for (task, optimizer), published in FINAL_UNIT_WEIGHT.items():
        final = [
            float(storage.curves(result.trial)["weights"]["unit"][-1])
            for result in results
            if (result.task, result.optimizer) == (task, optimizer) and not result.diverged
        ]
        ours = estimate(final)
        rises = published > _FIRST_WEIGHT
        moved = None if ours.mean is None else (ours.mean - _FIRST_WEIGHT) * (1 if rises else -1)
        spread = ours.standard_error is not None and ours.standard_error > 0
        yield ClaimRow(
            "weights",
            f"{task}: {optimizer} {'raises' if rises else 'lowers'} the filter level's weight from {_FIRST_WEIGHT:.3f}",
            f"{published:.3f}",
            "–" if ours.mean is None else f"{ours.text(4)} (n {ours.count})",
            moved,
            float(ttest_1samp(final, _FIRST_WEIGHT).pvalue) if spread else None,
        )


def _baydin_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    for task in ("mnist/logistic", "mnist/mlp"):
        for base in ("sgd", "sgdn", "adam"):
            theirs = [BAYDIN_TEST_LOSS.get((task, name)) for name in (f"{base}-hd", base)]
            text = " against ".join("not kept" if loss is None else f"{loss:.4f}" for loss in theirs)
            ours = [
                [
                    -result.test_loss
                    for result in results
                    if (result.task, result.optimizer) == (task, name) and result.test_loss is not None
                ]
                for name in (f"{base}-hd", base)
            ]
            claim = f"{task}: {base}-hd ends at a lower test loss than {base}"
            yield _compared("baydin", claim, text, ours, digits=4)


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
            yield _compared("tuned", claim, "not tested", [found[better], found[worse]], digits=2)


def _compared(study: str, claim: str, theirs: str, ours: Sequence[Sequence[float]], digits: int) -> ClaimRow:
    """Return the row of a claim that the first values are the higher ones; losses come with their sign changed."""
    first, second = (estimate(values) for values in ours)
    if first.mean is None or second.mean is None:
        return ClaimRow(study, claim, theirs, "–", None, None)
    texts = [values.text(digits).removeprefix("-") for values in (first, second)]
    return ClaimRow(
        study,
        claim,
        theirs,
        f"{texts[0]} against {texts[1]} (n {first.count}, {second.count})",
        first.mean - second.mean,
        welch_of_estimates(first, second),
    )


def _paired(claim: str, theirs: str, first: Mapping[int, float], second: Mapping[int, float], more: str) -> ClaimRow:
    seeds = sorted(first.keys() & second.keys())
    differences = estimate([first[seed] - second[seed] for seed in seeds])
    if differences.mean is None:
        return ClaimRow("figure2", claim, theirs, "–", None, None)
    spread = differences.standard_error is not None and differences.standard_error > 0
    pairs = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
    return ClaimRow(
        "figure2",
        claim,
        theirs,
        f"{differences.text(2)} points (n {differences.count}){more}",
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


def _accuracies(results: Sequence[TrialResult], task: str, *optimizers: str) -> list[float]:
    return [
        100 * result.test_accuracy
        for result in results
        if result.task == task and result.optimizer in optimizers and result.test_accuracy is not None
    ]


def _results(folder: Path, study: str) -> list[TrialResult]:
    path = folder / study
    return Storage(path).results() if path.exists() else []
