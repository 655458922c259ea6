"""The charts that show how training ended, from the results of trials."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from multirate.lab.judging.estimates import estimate
from multirate.lab.judging.profiles import Profile, performance_profiles, ratio_grid
from multirate.lab.reporting.bands import Band
from multirate.lab.reporting.charts import Chart, Line, Look, Panel, assign_looks
from multirate.lab.reporting.families import Family, Sweep
from multirate.lab.results import TrialResult

WIDEST_RATIO = 4.0
"""Where the axis of performance profiles ends: a method this far from the best one earns nothing."""


def robustness_chart(families: Sequence[Family], looks: Mapping[str, Look]) -> Chart:
    """Return the final loss of every family over the learning rate it began with."""
    lines = tuple(
        Line(
            family.name,
            replace(looks[family.method], markers=True),
            _loss_band(family),
            tuple(point.lr for point in family.curve if point.diverged),
        )
        for family in families
    )
    values = [value for line in lines for value in (*line.band.low, *line.band.high)]
    positive = bool(values) and min(values) > 0
    limits = (min(values) / 1.5, 1.5 * max(values)) if positive else None
    panel = Panel("", "initial learning rate", "final test loss", lines, log_x=True, log_y=positive, y_range=limits)
    return Chart(
        "robustness",
        "Final loss against the initial learning rate",
        "Median over seeds, where a diverged seed counts as the worst; the band reaches from the lowest seed to the "
        "highest. A cross at the upper edge marks a learning rate with diverged seeds.",
        (panel,) if families else (),
    )


def sweep_charts(sweeps: Sequence[Sweep], results: Sequence[TrialResult], baselines: Sequence[str]) -> list[Chart]:
    """Return the results over every option that was swept, learning rates aside: one chart for each option.

    Args:
        sweeps: Of one task.
        results: Finished trials of that task.
        baselines: Variants that are drawn as level lines, where they are not of the sweep themselves.
    """
    trials: dict[str, list[TrialResult]] = {}
    for result in results:
        trials.setdefault(result.optimizer, []).append(result)
    return [
        _sweep_chart(option, [sweep for sweep in sweeps if sweep.option == option], trials, baselines)
        for option in dict.fromkeys(sweep.option for sweep in sweeps)
    ]


def _sweep_chart(
    option: str, sweeps: Sequence[Sweep], trials: Mapping[str, Sequence[TrialResult]], baselines: Sequence[str]
) -> Chart:
    swept = {variant for sweep in sweeps for variant in sweep.variants.values()}
    places = sorted({place for sweep in sweeps for place in sweep.variants})
    # A baseline may have the very name of a sweep: it is its optimizer with the option left alone.
    level = {
        f"{name} (baseline)": dict.fromkeys((places[0], places[-1]), trials[name])
        for name in baselines
        if name not in swept
    }
    courses = {sweep.name: {place: trials[name] for place, name in sweep.variants.items()} for sweep in sweeps}
    courses = {**level, **courses}
    looks = assign_looks(courses)
    logarithmic = places[0] > 0 and places[-1] >= 10 * places[0]
    x_label = f"last part of {option}" if sweeps[0].parts else option
    panels = []
    for title, y_label, measure in (("Final test loss", "loss", _loss), ("Final test accuracy", "%", _per_cent)):
        lines = tuple(
            _course(name, replace(looks[name], markers=name not in level), course, measure)
            for name, course in courses.items()
        )
        centers = [center for line in lines for center in line.band.center]
        if centers:
            # Losses that exploded must not press all others into one line.
            wide = measure is _loss and min(centers) > 0 and max(centers) > 10 * min(centers)
            limits = (min(centers) / 1.5, 1.5 * max(centers)) if wide else None
            panels.append(Panel(title, x_label, y_label, lines, log_x=logarithmic, log_y=wide, y_range=limits))
    return Chart(
        f"sweep-{option.replace('_', '-')}",
        f"Result against {option}",
        "Mean over the seeds that did not diverge; the band is one standard error to either side. A cross at the upper "
        "edge marks a value with diverged seeds."
        + (" Level lines: the baselines, which have no such option or one value of it." if level else ""),
        tuple(panels),
    )


def _course(
    name: str,
    look: Look,
    course: Mapping[float, Sequence[TrialResult]],
    measure: Callable[[TrialResult], float | None],
) -> Line:
    found = {
        place: estimate([value for trial in trials if (value := measure(trial)) is not None])
        for place, trials in course.items()
    }
    known = [(place, each.mean, each.standard_error or 0.0) for place, each in found.items() if each.mean is not None]
    band = Band(
        tuple(place for place, _, _ in known),
        tuple(mean for _, mean, _ in known),
        tuple(mean - error for _, mean, error in known),
        tuple(mean + error for _, mean, error in known),
    )
    diverged = tuple(place for place, trials in course.items() if any(trial.diverged for trial in trials))
    return Line(name, look, band, diverged if look.markers else ())


def _loss(trial: TrialResult) -> float | None:
    return trial.test_loss


def _per_cent(trial: TrialResult) -> float | None:
    return None if trial.test_accuracy is None else 100 * trial.test_accuracy


def loss_profiles(losses: Mapping[str, Mapping[str, Sequence[float | None]]]) -> dict[str, Profile]:
    """Return the performance profiles of the final test loss over several tasks.

    Args:
        losses: Final losses over seeds, by task and then by method; None for a seed that diverged.

    Returns:
        By method; none below two tasks with positive losses or below two methods that ran on all of them.
    """
    costs = {task: {name: _cost(values) for name, values in row.items()} for task, row in losses.items()}
    # A ratio of losses means nothing where one of them is zero or less.
    kept = {task: row for task, row in costs.items() if all(cost is None or cost > 0 for cost in row.values())}
    shared = [name for name in next(iter(kept.values()), {}) if all(name in row for row in kept.values())]
    if len(kept) < 2 or len(shared) < 2:
        return {}
    return performance_profiles({task: {name: row[name] for name in shared} for task, row in kept.items()})


def profile_chart(profiles: Mapping[str, Profile], looks: Mapping[str, Look]) -> Chart:
    """Return the performance profiles as lines.

    Args:
        profiles: By method.
        looks: How each method is drawn.
    """
    corners = [ratio for ratio in ratio_grid(profiles.values()) if ratio < WIDEST_RATIO] + [WIDEST_RATIO]
    lines = []
    for name, profile in profiles.items():
        shares = tuple(100 * profile.at(ratio) for ratio in corners)
        band = Band(tuple(corners), shares, shares, shares)
        lines.append(Line(name, replace(looks[name], steps=True), band))
    panel = Panel("", "final test loss / lowest of the task", "% of tasks", tuple(lines), log_x=True, y_range=(0, 103))
    tasks = max((profile.tasks for profile in profiles.values()), default=0)
    return Chart(
        "profile",
        f"Performance profile over {tasks} tasks",
        "On which share of the tasks the final test loss (median over seeds) is within a factor of the lowest one. "
        "Higher and further left is better. Only methods that ran on all these tasks are compared.",
        (panel,) if profiles else (),
    )


def _loss_band(family: Family) -> Band:
    solved = [(point.lr, point.median, point.low, point.high) for point in family.curve]
    known = [
        (lr, median, low, high)
        for lr, median, low, high in solved
        if median is not None and low is not None and high is not None
    ]
    return Band(
        tuple(lr for lr, _, _, _ in known),
        tuple(median for _, median, _, _ in known),
        tuple(low for _, _, low, _ in known),
        tuple(high for _, _, _, high in known),
    )


def _cost(losses: Sequence[float | None]) -> float | None:
    median = statistics.median(math.inf if loss is None else loss for loss in losses)
    return float(median) if math.isfinite(median) else None
