"""What was measured, as charts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from multirate.lab.bench.candidates import CANDIDATES, OWN, PEER
from multirate.lab.bench.growth import SWEEPS, GrowthRow
from multirate.lab.bench.steps import Timing
from multirate.lab.reporting.bands import Band
from multirate.lab.reporting.charts import COLORS, Bar, Chart, Line, Look, Panel

ROLE_COLORS: Mapping[str, str] = {OWN: COLORS[0], PEER: COLORS[1]}
BASELINE_COLOR = "#9aa0a6"


def growth_chart(rows: Sequence[GrowthRow]) -> Chart:
    """Return the time of a step against the size, a panel for every sweep; bands reach from least to most."""
    names = list(dict.fromkeys(row.optimizer for row in rows))
    looks = {name: Look(COLORS[index % len(COLORS)], markers=True) for index, name in enumerate(names)}
    panels = tuple(
        Panel(
            title=sweep.title,
            x_label=sweep.axis,
            y_label="milliseconds",
            lines=tuple(
                Line(CANDIDATES[name].description, looks[name], _band(rows, sweep.name, name)) for name in names
            ),
            log_x=True,
            log_y=True,
        )
        for sweep in SWEEPS.values()
    )
    return Chart("growth", "How a step grows", "Median of the rounds; the band reaches from least to most.", panels)


def ratio_chart(cases: Mapping[str, Sequence[Timing]]) -> Chart | None:
    """Return bars of the ratio to the fastest AdamW, a panel for every case; None without an AdamW."""
    panels = tuple(
        Panel(title=case, x_label="step time, fastest AdamW = 1", y_label="", bars=bars, log_x=True)
        for case, bars in ((case, _bars(found)) for case, found in cases.items())
        if bars
    )
    return Chart("ratios", "Step time", "Ratio of medians to the fastest AdamW.", panels) if panels else None


def _band(rows: Sequence[GrowthRow], sweep: str, name: str) -> Band:
    own = [row for row in rows if row.sweep == sweep and row.optimizer == name]
    seconds = [[1e3 * lap for lap in row.seconds] for row in own]
    return Band(
        x=tuple(float(row.size) for row in own),
        center=tuple(statistics.median(laps) for laps in seconds),
        low=tuple(min(laps) for laps in seconds),
        high=tuple(max(laps) for laps in seconds),
    )


def _bars(timings: Sequence[Timing]) -> tuple[Bar, ...]:
    return tuple(
        Bar(timing.candidate.name, timing.ratio, ROLE_COLORS.get(timing.candidate.role, BASELINE_COLOR))
        for timing in timings
        if timing.ratio is not None
    )
