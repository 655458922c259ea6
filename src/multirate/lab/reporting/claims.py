"""Claim by claim: what the papers report, what the results in a folder say, and a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multirate.lab.judging.comparisons import p_text, welch_of_estimates
from multirate.lab.judging.estimates import Estimate, estimate
from multirate.lab.markdown import markdown_table
from multirate.lab.results import TrialResult
from multirate.lab.storage import Storage, StorageError
from multirate.lab.studies import figure2, tuned
from multirate.lab.studies.published import BAYDIN_TEST_LOSS, FINAL_UNIT_WEIGHT, PUBLISHED

LEVEL = 0.05

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
        p: Two-sided p-value of Welch's test on ours, not corrected for the number of claims; None when undefined.
        verdict: In a word or two.
    """

    study: str
    claim: str
    theirs: str
    ours: str
    p: float | None
    verdict: str

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        return self.study, self.claim, self.theirs, self.ours, p_text(self.p), self.verdict


HEADINGS = ("study", "claim", "theirs", "ours", "p", "verdict")


def judge_claims(folder: Path) -> list[ClaimRow]:
    """Return all claims with what the studies in a folder say of them.

    Args:
        folder: Holds a folder for every study, named like it; a study that was not run has no figures.

    Raises:
        StorageError: If results cannot be read.
    """
    rows: list[ClaimRow] = []
    for study, claims in _BETTER_THAN.items():
        rows += _accuracy_claims(study, claims, _results(folder, study))
    rows += _ratio_claims(_results(folder, "figure2"))
    rows += _weight_claims(folder / "weights")
    rows += _baydin_claims(_results(folder, "baydin"))
    rows += _tuned_claims(_results(folder, "tuned"))
    return rows


def markdown(rows: Iterable[ClaimRow]) -> str:
    """Return claims as a table in Markdown."""
    return markdown_table([dict(zip(HEADINGS, row.cells(), strict=True)) for row in rows], len(HEADINGS))


def _accuracy_claims(
    study: str, claims: Mapping[str, Sequence[str]], results: Sequence[TrialResult]
) -> Iterator[ClaimRow]:
    published = PUBLISHED[study]
    for task in dict.fromkeys(task for task, _ in published):
        for better, others in claims.items():
            for worse in others:
                theirs = [published[task, name] for name in (better, worse)]
                pair = [Estimate(figure.mean, figure.standard_error, figure.count) for figure in theirs]
                text = f"{pair[0].mean:.2f} against {pair[1].mean:.2f}, p {p_text(welch_of_estimates(*pair))}"
                claim = f"{task}: {better} is more accurate than {worse}"
                ours = [_accuracies(results, task, name) for name in (better, worse)]
                yield _compared(study, claim, text, ours, _percent)


def _ratio_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    """Figure 2: the best ratio lies inside, most ratios beat the baseline, learned weights beat fixed ones."""
    [task] = figure2.TASKS
    learned = {ratio: _accuracies(results, task, figure2.variant(ratio, 0.01)) for ratio in figure2.RATIOS}
    fixed = {ratio: _accuracies(results, task, figure2.variant(ratio, 0.0)) for ratio in figure2.RATIOS}
    baseline = estimate(_accuracies(results, task, "adam")).mean
    means = {ratio: mean for ratio, values in learned.items() if (mean := estimate(values).mean) is not None}
    complete = len(means) == len(figure2.RATIOS) and baseline is not None
    inside = [value for ratio in figure2.RATIOS[1:-1] for value in learned[ratio]]
    ends = [value for ratio in (figure2.RATIOS[0], figure2.RATIOS[-1]) for value in learned[ratio]]
    best = max(means, key=means.__getitem__) if complete else None
    text = "best weight of the layer level inside (0, 1)"
    found = _compared("figure2", "mixtures are more accurate than one level", text, [inside, ends], _percent)
    yield found if best is None else dataclasses.replace(found, ours=f"{found.ours}; best at {best:g}")
    above = sum(mean > baseline for mean in means.values()) if complete and baseline is not None else None
    yield ClaimRow(
        "figure2",
        "most ratios beat Adam",
        "most",
        "–" if above is None else f"{above} of {len(means)}",
        None,
        "no results" if above is None else ("reproduced" if 2 * above > len(means) else "contradicted"),
    )
    pooled = [[value for values in kind.values() for value in values] for kind in (learned, fixed)]
    yield _compared("figure2", "learned weights are more accurate than fixed ones", "learned above", pooled, _percent)


def _weight_claims(folder: Path) -> Iterator[ClaimRow]:
    storage = Storage(folder)
    results = storage.results() if folder.exists() else []
    for (task, optimizer), published in FINAL_UNIT_WEIGHT.items():
        weights = [
            float(storage.curves(result.trial)["weights"]["unit"][-1])
            for result in results
            if (result.task, result.optimizer) == (task, optimizer) and not result.diverged
        ]
        ours = estimate(weights)
        rises = published > 0.2
        verdict = "no results" if ours.mean is None else ("same" if (ours.mean > 0.2) == rises else "other")
        yield ClaimRow(
            "weights",
            f"{task}: {optimizer} {'raises' if rises else 'lowers'} the filter level's weight from 0.200",
            f"{published:.3f}",
            "–" if ours.mean is None else f"{ours.text(3)} (n {ours.count})",
            None,
            verdict if verdict == "no results" else f"{verdict} direction",
        )


def _baydin_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    for task in ("mnist/logistic", "mnist/mlp"):
        for base in ("sgd", "sgdn", "adam"):
            theirs = [BAYDIN_TEST_LOSS.get((task, name)) for name in (f"{base}-hd", base)]
            text = " against ".join("not kept" if loss is None else f"{loss:.4f}" for loss in theirs)
            ours = [
                [
                    result.test_loss
                    for result in results
                    if (result.task, result.optimizer) == (task, name) and result.test_loss is not None
                ]
                for name in (f"{base}-hd", base)
            ]
            claim = f"{task}: {base}-hd ends at a lower test loss than {base}"
            yield _compared("baydin", claim, text, ours, lambda values: values.text(4), higher_is_better=False)


def _tuned_claims(results: Sequence[TrialResult]) -> Iterator[ClaimRow]:
    for task in tuned.TASKS:
        found = {
            name: _accuracies(results, task, *family) for name, family in tuned.named_families().items()
        }  # fmt: skip
        levels = [name for name in found if name.startswith("levels")]
        for better, worse in (
            *((name, "levels: global") for name in levels if name != "levels: global"),
            *((name, "adam, tuned, cosine") for name in levels),
            ("multirate", "adam, tuned, cosine"),
            ("multirate", "prodigy"),
        ):
            claim = f"{task}: {better} is more accurate than {worse}"
            yield _compared("tuned", claim, "not tested", [found[better], found[worse]], _percent)


def _percent(values: Estimate) -> str:
    return values.text(2)


def _compared(
    study: str,
    claim: str,
    theirs: str,
    ours: Sequence[Sequence[float]],
    text: Callable[[Estimate], str],
    *,
    higher_is_better: bool = True,
) -> ClaimRow:
    first, second = (estimate(values) for values in ours)
    if first.mean is None or second.mean is None:
        return ClaimRow(study, claim, theirs, "–", None, "no results")
    p = welch_of_estimates(first, second)
    difference = first.mean - second.mean if higher_is_better else second.mean - first.mean
    return ClaimRow(
        study,
        claim,
        theirs,
        f"{text(first)} against {text(second)} (n {first.count}, {second.count})",
        p,
        _verdict(difference, p),
    )


def _verdict(difference: float, p: float | None) -> str:
    if p is None:
        return "too few seeds"
    if p >= LEVEL:
        return "not established"
    return "reproduced" if difference > 0 else "contradicted"


def _accuracies(results: Sequence[TrialResult], task: str, *optimizers: str) -> list[float]:
    return [
        100 * result.test_accuracy
        for result in results
        if result.task == task and result.optimizer in optimizers and result.test_accuracy is not None
    ]


def _results(folder: Path, study: str) -> list[TrialResult]:
    path = folder / study
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is no folder")
    return Storage(path).results() if path.exists() else []
