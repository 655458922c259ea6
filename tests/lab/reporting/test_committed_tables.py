"""The tables that are kept beside results are those of these results."""

from pathlib import Path

import pytest

from multirate.lab.judging.estimates import estimate
from multirate.lab.storage import Storage

RESULTS = Path(__file__).parents[3] / "results"


@pytest.mark.parametrize("tables", sorted(RESULTS.rglob("tables.md")), ids=lambda path: path.parent.name)
def test_the_tables_have_the_losses_of_the_rows(tables):
    shown = {}
    for section in tables.read_text(encoding="utf-8").split("\n## ")[1:]:
        task = section.partition("\n")[0]
        cells = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
        for name, loss, *_ in cells:
            shown.setdefault((task, name.strip("| `")), loss)
    losses = {}
    for result in Storage(tables.parent).results():
        losses.setdefault((result.task, result.optimizer), []).append(result.test_loss)
    means = {cell: estimate([loss for loss in own if loss is not None]).text(4) for cell, own in losses.items()}
    told = {cell: shown.get(cell) for cell in means}
    assert told == means, f"multirate report {tables.parent.relative_to(RESULTS.parent)}"
