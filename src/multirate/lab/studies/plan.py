"""How much work a study is, told before it is done."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Study


def plan_text(study: Study, request: Request) -> str:
    """Return how many trials a study has, stage by stage.

    Raises:
        ValueError: If the request does not fit the study.
    """
    seen: set[tuple[str, Trial]] = set()
    counts = []
    for stage in study.stages:
        trials = {(stage.folder, trial) for trial in stage.trials(request, ())}
        counts.append(len(trials - seen))
        seen |= trials
    parts = "" if len(counts) == 1 else f" in {len(counts)} stages: {', '.join(map(str, counts))}"
    return f"{study.name}: {len(seen)} trials{parts}."


def estimate_text(trials: Sequence[Trial], known: Sequence[TrialResult], jobs: int) -> str:
    """Return about how long the trials take that are not finished, going by those that are.

    Args:
        trials: All trials of a stage.
        known: Finished trials, of this stage or another.
        jobs: How many run at a time.
    """
    finished = {result.trial for result in known}
    waiting = [trial for trial in trials if trial not in finished]
    if not waiting:
        return "All trials are finished."
    paces: dict[tuple[str, ...], list[float]] = {}
    for result in known:
        pace = (result.seconds + result.preparation_seconds) / result.epochs
        for key in ((result.task,), (result.task, result.trial.variant.optimizer)):
            paces.setdefault(key, []).append(pace)
    total = 0.0
    for trial in waiting:
        found = paces.get((trial.task, trial.variant.optimizer)) or paces.get((trial.task,))
        if found is None:
            return f"{len(waiting)} trials to run; how long they take is not known before one of {trial.task} is done."
        total += trial.epochs * statistics.fmean(found)
    minutes = max(1, round(total / jobs / 60))
    text = f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return f"{len(waiting)} trials to run, about {text} of training at {jobs} at a time, going by finished ones."
