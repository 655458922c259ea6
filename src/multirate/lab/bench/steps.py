"""The steps of a case: groups that fit into memory, each with the baselines; and what is derived from their times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from multirate.lab.bench.candidates import BASELINE, CANDIDATES, Candidate, baselines
from multirate.lab.bench.measuring import Measured, Rounds, measure
from multirate.lab.bench.shapes import Case, Shapes, elements, shrunk
from multirate.lab.bench.traffic import COPY_BYTES, NUMBER, READ_BYTES

LARGE, MANY = 1 << 26, 5_000
"""From so many elements, or tensors, on a step takes so long that half of the rounds have to do."""
GROUP_BYTES = 10 << 30
"""What parameters, gradients and state of the optimizers measured together may take."""


@dataclass(frozen=True)
class CaseRounds:
    """What was measured on the parameters of a case.

    Attributes:
        case: Its name.
        description: What it is shaped like.
        is_model: Whether it is shaped like a model that is trained.
        parameters: Number of elements.
        tensors: Number of tensors.
        groups: The optimizers, in groups that each hold the baselines.
        host: On a CPU, the same on as many tensors of next to no elements; None where `groups` tell it themselves.
    """

    case: str
    description: str
    is_model: bool
    parameters: int
    tensors: int
    groups: tuple[Rounds, ...]
    host: Rounds | None


@dataclass(frozen=True)
class Timing:
    """What the times of one optimizer on a case come to.

    Attributes:
        candidate: The optimizer.
        seconds: Time of one step, for every round.
        ratios: Its median to that of each baseline in the same rounds.
        host: Median time that the host is busy, in seconds.
        host_ratios: That to each baseline's.
        bandwidth: Bytes that it would move ideally, over its median time.
        share: That as a share of the bandwidth of copying in the same rounds; None where none was measured.
        state: Bytes of state for each parameter element.
        peak: Bytes that a step needs for a moment; None where it was not looked at.
        first: Time of the first step in this process.
    """

    candidate: Candidate
    seconds: tuple[float, ...]
    ratios: dict[str, float]
    host: float
    host_ratios: dict[str, float]
    bandwidth: float
    share: float | None
    state: float
    peak: int | None
    first: float

    @property
    def median(self) -> float:
        """Median time of a step, in seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float | None:
        """Its median to that of the fastest baseline; None without one."""
        return max(self.ratios.values(), default=None)


def groups_of(candidates: Sequence[Candidate], parameters: int, limit: int = GROUP_BYTES) -> list[list[Candidate]]:
    """Divide candidates into groups that fit into memory, the baselines in each.

    Args:
        candidates: What is to be measured.
        parameters: Number of elements.
        limit: Bytes for a group; one with a single candidate may exceed it.
    """
    common = baselines(candidates)
    # Gradients are there twice: as they are and at the scale of the round.
    shared = 2 * NUMBER * parameters + sum(_bytes(candidate, parameters) for candidate in common)
    groups: list[list[Candidate]] = []
    room = 0
    for candidate in candidates:
        if candidate in common:
            continue
        if not groups or _bytes(candidate, parameters) > room:
            groups.append([*common])
            room = limit - shared
        groups[-1].append(candidate)
        room -= _bytes(candidate, parameters)
    return groups or [[*common]]


def run_case(
    case: Case,
    shapes: Shapes,
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    device: torch.device,
    copied: int,
    on_group: Callable[[], None] = lambda: None,
) -> CaseRounds | None:
    """Measure the steps of optimizers on a case; None when there is nobody to measure.

    Args:
        case: The case.
        shapes: Its parameters, or fewer of them for a trial.
        candidates: What to measure.
        rounds: Rounds that count; half of them where steps are long, and twice for the host's time.
        device: Where to.
        copied: Elements of the tensor whose copying is timed beside.
        on_group: Called after every group, and after the host's time.
    """
    able = [c for c in candidates if c.in_steps and (c.most_tensors is None or len(shapes) <= c.most_tensors)]
    if not able:
        return None
    measured = []
    long = elements(shapes) >= LARGE or len(shapes) >= MANY
    own = math.ceil(rounds / 2) if long else rounds
    # Following what thousands of tensors allocate takes longer than all their steps, and they are small.
    with_peak = len(shapes) < MANY
    for group in groups_of(able, elements(shapes)):
        measured.append(measure(group, shapes, rounds=own, device=device, copied=copied, with_peak=with_peak))
        on_group()
    host = None
    if device.type == "cpu" and shrunk(shapes) != shapes:
        host = measure(able, shrunk(shapes), rounds=2 * rounds, device=device)
    on_group()
    return CaseRounds(case.name, case.description, case.is_model, elements(shapes), len(shapes), tuple(measured), host)


def timings(result: CaseRounds) -> list[Timing]:
    """Return what the times come to, in the order of the table of candidates; baselines over all groups."""
    found = {}
    for group in result.groups:
        for measured in group.optimizers:
            if CANDIDATES[measured.name].role != BASELINE:
                found[measured.name] = _timing(measured.name, (group,), result)
    for measured in result.groups[0].optimizers:
        if CANDIDATES[measured.name].role == BASELINE:
            found[measured.name] = _timing(measured.name, result.groups, result)
    return [found[name] for name in CANDIDATES if name in found]


def bandwidths(result: CaseRounds) -> tuple[float, float] | None:
    """Return the median bandwidths of copying and of reading, in bytes a second; None where not measured."""
    return _bandwidths(result.groups)


def _bandwidths(groups: Sequence[Rounds]) -> tuple[float, float] | None:
    copied = groups[0].copied
    if not copied:
        return None
    copy = statistics.median(seconds for group in groups for seconds in group.copy)
    read = statistics.median(seconds for group in groups for seconds in group.read)
    return COPY_BYTES * copied / copy, READ_BYTES * copied / read


def _timing(name: str, groups: Sequence[Rounds], result: CaseRounds) -> Timing:
    candidate, first = CANDIDATES[name], _find(groups[0], name)
    seconds = {each: tuple(lap for group in groups for lap in _find(group, each).seconds) for each in _names(groups)}
    hosts = (result.host,) if result.host is not None else groups
    host = {each: statistics.median(lap for group in hosts for lap in _find(group, each).host) for each in seconds}
    median = statistics.median(seconds[name])
    common = [each for each in seconds if CANDIDATES[each].role == BASELINE]
    bandwidth, copying = candidate.traffic.bytes * result.parameters / median, _bandwidths(groups)
    return Timing(
        candidate=candidate,
        seconds=seconds[name],
        ratios={each: median / statistics.median(seconds[each]) for each in common},
        host=host[name],
        host_ratios={each: host[name] / host[each] for each in common},
        bandwidth=bandwidth,
        share=None if copying is None else bandwidth / copying[0],
        state=first.state_bytes / result.parameters,
        peak=first.peak_bytes,
        first=first.first,
    )


def _names(groups: Sequence[Rounds]) -> list[str]:
    """Return what is in all of the groups."""
    return [
        measured.name
        for measured in groups[0].optimizers
        if all(any(measured.name == other.name for other in group.optimizers) for group in groups)
    ]


def _find(group: Rounds, name: str) -> Measured:
    return next(measured for measured in group.optimizers if measured.name == name)


def _bytes(candidate: Candidate, parameters: int) -> int:
    return NUMBER * parameters * (1 + candidate.traffic.state)
