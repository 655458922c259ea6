"""What was measured, as tables of text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from multirate.lab.bench.candidates import CANDIDATES
from multirate.lab.bench.compilation import Compilation
from multirate.lab.bench.growth import SWEEPS, GrowthRow
from multirate.lab.bench.steps import Timing
from multirate.lab.bench.training import TrainingTiming, overhead

Rows = list[dict[str, str]]

NOTHING = "–"


def step_rows(timings: Sequence[Timing]) -> Rows:
    """Return a line for every optimizer on a case."""
    return [
        {
            "optimizer": timing.candidate.description,
            "ratio": _number(timing.ratio, 2),
            "median ms": _milliseconds(timing.median),
            "min": _milliseconds(min(timing.seconds)),
            "max": _milliseconds(max(timing.seconds)),
            "host ms": _milliseconds(timing.host),
            "bytes moved": str(timing.candidate.traffic.bytes),
            "% of copy": _number(timing.share, 0, scale=100),
            "state": f"{timing.state:.2f}",
            "peak MB": _number(timing.peak, 1, scale=1e-6),
        }
        for timing in timings
    ]


def compilation_rows(compilations: Sequence[Compilation]) -> Rows:
    """Return a line for every optimizer that compiles."""
    return [
        {
            "optimizer": CANDIDATES[each.name].description,
            "first step ms": NOTHING if each.error else _milliseconds(each.first),
            "in a later process ms": NOTHING if each.again is None else _milliseconds(each.again),
            "later steps ms": NOTHING if each.error else _milliseconds(statistics.median(each.later)),
            "compiling ms": each.error or _milliseconds(each.seconds),
        }
        for each in compilations
    ]


def growth_rows(rows: Sequence[GrowthRow], sweep: str) -> Rows:
    """Return a line for every optimizer, a column for every size: median milliseconds."""
    own = [row for row in rows if row.sweep == sweep]
    return [
        {"optimizer": CANDIDATES[name].description}
        | {f"{row.size:,}": _milliseconds(statistics.median(row.seconds)) for row in own if row.optimizer == name}
        for name in dict.fromkeys(row.optimizer for row in own)
    ]


def growth_title(sweep: str) -> str:
    """Return what grows in a sweep, as a heading."""
    return f"{SWEEPS[sweep].title}: milliseconds by {SWEEPS[sweep].axis}"


def training_rows(timings: Sequence[TrainingTiming]) -> Rows:
    """Return a line for every optimizer and model."""
    return [_training_row(timing, timings) for timing in timings]


def _training_row(timing: TrainingTiming, timings: Sequence[TrainingTiming]) -> dict[str, str]:
    found = overhead(timing, timings)
    interval = found.interval if found else None
    return {
        "model": timing.workload,
        "optimizer": CANDIDATES[timing.optimizer].description,
        "step ms": _milliseconds(statistics.median(timing.seconds)),
        "its part ms": _milliseconds(statistics.median(timing.stepping)) if timing.stepping else NOTHING,
        "over fused AdamW": NOTHING if found is None else f"{100 * found.median:+.1f} %",
        "95 % interval": NOTHING if interval is None else f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f} %",
        "by its part alone": NOTHING if found is None or found.of_part is None else f"{100 * found.of_part:+.2f} %",
    }


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _number(value: float | None, digits: int, scale: float = 1.0) -> str:
    return NOTHING if value is None else f"{value * scale:.{digits}f}"
