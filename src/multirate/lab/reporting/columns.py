"""Tables as text by columns, made once; the page, Markdown and the terminal each draw them their way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Cell:
    """What a cell says.

    Attributes:
        text: The number or the name.
        below: What belongs to it and may stand below, in small letters.
        best: Whether no other of its column is better.
    """

    text: str
    below: str = ""
    best: bool = False


@dataclass(frozen=True)
class Heading:
    """What stands above a column.

    Attributes:
        text: What the cells are.
        name: Whether they are names, not numbers.
        detail: Whether it is left out where there is little room.
    """

    text: str
    name: bool = False
    detail: bool = False


@dataclass(frozen=True)
class ResultTable:
    """A table.

    Attributes:
        title: What it shows.
        explanation: How to read it.
        headings: Of the columns.
        rows: A cell for every column.
    """

    title: str
    explanation: str
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A heading, and what the column says of a row.

    Attributes:
        heading: What stands above.
        text: What a cell says.
        below: What belongs to it.
        number: The number by which a cell may be the best of its column.
        better: Chooses the best of several numbers.
    """

    heading: Heading
    text: Callable[[Row], str]
    below: Callable[[Row], str] = lambda row: ""
    number: Callable[[Row], float | None] = lambda row: None
    better: Callable[[list[float]], float] = min

    def cells(self, rows: Sequence[Row]) -> list[Cell]:
        """Return its cells from the top."""
        known = [number for row in rows if (number := self.number(row)) is not None]
        top = self.better(known) if len(known) > 1 else None
        return [Cell(self.text(row), self.below(row), best=top is not None and self.number(row) == top) for row in rows]


def tabulate(title: str, explanation: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> ResultTable:
    """Return the table of some rows.

    Args:
        title: What it shows.
        explanation: How to read it.
        columns: From left to right.
        rows: From the top.
    """
    cells = [column.cells(rows) for column in columns]
    return ResultTable(title, explanation, [column.heading for column in columns], list(zip(*cells, strict=True)))
