"""A paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from multirate.lab.judging.comparisons import Comparison, compare_published, correct
from multirate.lab.judging.estimates import Estimate, estimate
from multirate.lab.results import TrialResult
from multirate.lab.studies.published import PUBLISHED, Published
from multirate.lab.variants import Variant

LEVEL = 0.05


@dataclass(frozen=True)
class PaperRow:
    """A published test accuracy and ours, in per cent.

    Attributes:
        task: Name of the task.
        optimizer: Our variant; the paper's optimizer where we have no result.
        paper: The published figure.
        ours: Over the seeds that did not diverge.
        comparison: Ours minus the paper's; its p-value is corrected by Holm's method for all rows of the table.
    """

    task: str
    optimizer: str
    paper: Published
    ours: Estimate
    comparison: Comparison

    @property
    def mark(self) -> str:
        """Whether ours is significantly above or below the paper's: `▲`, `▼` or `≈`; `–` when not testable."""
        p = self.comparison.p_corrected
        if p is None or self.comparison.difference is None:
            return "–"
        if p >= LEVEL:
            return "≈"
        return "▲" if self.comparison.difference > 0 else "▼"

    @property
    def paper_text(self) -> str:
        """The published figure as papers write it."""
        return f"{self.paper.mean:.2f} ({self.paper.standard_error:.2f})"

    @property
    def our_text(self) -> str:
        """Our figure, written alike."""
        if self.ours.mean is None:
            return "–"
        error = "" if self.ours.standard_error is None else f" ({self.ours.standard_error:.2f})"
        return f"{self.ours.mean:.2f}{error}"


def compare_with_paper(results: Sequence[TrialResult], study: object) -> list[PaperRow]:
    """Return a row for every published figure of a study, and one more for each further variant of ours.

    A variant belongs to the published optimizer that has its name and its schedule: options such as the learning rate
    or a reading of an equation make no difference.

    Args:
        results: Finished trials.
        study: Name of the study; one that nothing was published on gives no rows.

    Returns:
        The rows in the paper's order; none when we have no result for any published figure.
    """
    published = PUBLISHED.get(study, {}) if isinstance(study, str) else {}
    ours: dict[tuple[str, str], dict[str, list[float]]] = {}
    for result in results:
        variant = Variant.parse(result.optimizer)
        cell = result.task, str(Variant(variant.optimizer, schedule=variant.schedule))
        values = ours.setdefault(cell, {}).setdefault(result.optimizer, [])
        if result.test_accuracy is not None:
            values.append(100 * result.test_accuracy)
    if not published.keys() & ours.keys():
        return []
    pairs = [
        (cell, figure, optimizer, values)
        for cell, figure in _by_task(published).items()
        for optimizer, values in ours.get(cell, {cell[1]: []}).items()
    ]
    comparisons = [
        compare_published(values, figure.mean, figure.standard_error, figure.count) for _, figure, _, values in pairs
    ]
    corrected = correct([comparison.p for comparison in comparisons])
    return [
        PaperRow(task, optimizer, figure, estimate(values), replace(comparison, p_corrected=p))
        for ((task, _), figure, optimizer, values), comparison, p in zip(pairs, comparisons, corrected, strict=True)
    ]


def _by_task(published: Mapping[tuple[str, str], Published]) -> dict[tuple[str, str], Published]:
    tasks = dict.fromkeys(task for task, _ in published)
    return {cell: figure for task in tasks for cell, figure in published.items() if cell[0] == task}
