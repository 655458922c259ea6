"""The rows of the table of claims, and the table as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from multirate.lab.judging.comparisons import p_text
from multirate.lab.markdown import markdown_table

LEVEL = 0.05
NO_RESULTS = "no results"
NOT_TESTED = "not tested"
"""What the papers say of our own comparisons."""


@dataclass(frozen=True)
class ClaimRow:
    """One claim and what became of it.

    Attributes:
        study: Name of the study that tests it.
        task: Name of the task.
        claim: In words.
        theirs: The published figures, with the p-value that follows from them.
        ours: Our figures.
        difference: How far ours go in the claimed direction; None without results.
        p: Two-sided p-value on ours; None where it is undefined.
        same: Whether the claim is that ours are no other than theirs, which a small p speaks against.
        p_corrected: The p-value, corrected by Holm's method for all claims of the study.
    """

    study: str
    task: str
    claim: str
    theirs: str
    ours: str
    difference: float | None
    p: float | None
    same: bool = False
    p_corrected: float | None = None

    @property
    def verdict(self) -> str:
        """What may be concluded."""
        if self.difference is None:
            return NO_RESULTS
        if self.p_corrected is None:
            return "too few seeds"
        if self.p_corrected >= LEVEL:
            return "not refuted" if self.same else "not established"
        if self.difference <= 0 or self.same:
            return "contradicted"
        return "established" if self.theirs == NOT_TESTED else "reproduced"

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        return self.study, self.claim, self.theirs, self.ours, p_text(self.p_corrected), self.verdict


HEADINGS = ("study", "claim", "theirs", "ours", "p", "verdict")


def claim_lines(rows: Sequence[ClaimRow]) -> list[tuple[str, ...]]:
    """Return claims as lines of text below `HEADINGS`; those of ours without results are told in one for a study."""
    lines: list[tuple[str, ...]] = []
    for study in dict.fromkeys(row.study for row in rows):
        own = [row for row in rows if row.study == study]
        missing = [row for row in own if row.verdict == NO_RESULTS and row.theirs == NOT_TESTED]
        lines += [row.cells() for row in own if row not in missing]
        if missing:
            tasks = ", ".join(dict.fromkeys(row.task for row in missing))
            count = f"{len(missing)} claim{'s' if len(missing) > 1 else ''}"
            lines.append((study, f"{count} on {tasks}", NOT_TESTED, "–", "–", NO_RESULTS))
    return lines


def markdown(rows: Sequence[ClaimRow]) -> str:
    """Return claims as a table in Markdown."""
    return markdown_table([dict(zip(HEADINGS, line, strict=True)) for line in claim_lines(rows)], len(HEADINGS))
