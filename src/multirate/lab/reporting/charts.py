"""What a chart consists of, and the colours of all charts; how they are drawn is decided elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.colors import to_hex

from multirate.lab.reporting.bands import Band

# Distinguishable with the common forms of colour blindness (Okabe & Ito, darkened where the page is white).
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#b5379b", "#c48a00",
    "#56a5d8", "#7a4ec7", "#8c564b", "#4d4d4d", "#6b8e23",
)  # fmt: skip
DASHES = ("solid", "dash", "dot")
LEVEL_COLORS: Mapping[str, str] = {
    "global": "#0072b2",
    "group": "#7a4ec7",
    "layer": "#d55e00",
    "unit": "#009e73",
    "parameter": "#b5379b",
}

BARS_OF_A_PANEL = 12


@dataclass(frozen=True)
class Look:
    """How a line looks.

    Attributes:
        color: Six hexadecimal digits after a `#`.
        dash: One of `DASHES`.
        markers: Whether its points are marked.
        steps: Whether it is level between its points and jumps at them.
    """

    color: str
    dash: str = "solid"
    markers: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Line:
    """A labelled curve with its band.

    Attributes:
        label: Its name in the legend.
        look: How it looks.
        band: Where it lies.
        failures: Positions on the horizontal axis where runs diverged, marked at the upper edge.
    """

    label: str
    look: Look
    band: Band
    failures: tuple[float, ...] = ()


@dataclass(frozen=True)
class Heat:
    """A map of common logarithms.

    Attributes:
        x: Where each column stands.
        names: What each row is, from the top.
        rows: The values; None where there is none.
        cells: Whether every column stands for itself, its value written into it, and is no moment of a course.
    """

    x: tuple[float, ...]
    names: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]
    cells: bool = False


@dataclass(frozen=True)
class Bar:
    """A labelled bar that begins at 1.

    Attributes:
        label: What it stands for.
        value: Where it ends.
        color: Six hexadecimal digits after a `#`.
    """

    label: str
    value: float
    color: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes, with lines, with a map or with bars that lie one below the other."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...] = ()
    heat: Heat | None = None
    bars: tuple[Bar, ...] = ()
    log_x: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Chart:
    """Panels side by side under one title and one legend.

    Attributes:
        key: Short name for files.
        title: What is seen.
        caption: How to read it.
        panels: From left to right, row by row; all with lines, all with a map, or all with bars.
        one_scale: Whether all panels share their vertical axis.
        quantity: What the logarithms of a map are of.
    """

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    one_scale: bool = False
    quantity: str = "rate"

    @property
    def height(self) -> float:
        """How many times as high as usual its panels are, for bars to have room."""
        return max(1.0, max(len(panel.bars) for panel in self.panels) / BARS_OF_A_PANEL)

    @property
    def columns(self) -> int:
        """How many panels stand side by side."""
        return min(len(self.panels), 4 if len(self.panels) in (4, 7, 8) or len(self.panels) > 9 else 3)

    @property
    def labels(self) -> list[str]:
        """The entries of the legend."""
        return list(dict.fromkeys(line.label for panel in self.panels for line in panel.lines))

    @property
    def heat_range(self) -> tuple[float, float]:
        """The lowest and the highest value of all maps."""
        values = [value for panel in self.panels if panel.heat for row in panel.heat.rows for value in row]
        known = [value for value in values if value is not None] or [0.0]
        return min(known), max(known)


def assign_looks(names: Iterable[str]) -> dict[str, Look]:
    """Give every name a look of its own: all colours first, then all again with dashes."""
    unique = dict.fromkeys(names)
    return {
        name: Look(COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)])
        for index, name in enumerate(unique)
    }


def ordered_colors(count: int) -> list[str]:
    """Return so many colours in order, from dark to light, the palest left out."""
    return [to_hex(colormaps["plasma"](0.85 * index / max(count - 1, 1))) for index in range(count)]
