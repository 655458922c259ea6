"""The table of optimizers, and the traffic that is counted for each."""

import pytest
import torch

from multirate.lab.bench import traffic
from multirate.lab.bench.candidates import BASELINE, CANDIDATES, OWN, baselines
from multirate.lab.bench.clocks import time_on_cpu
from multirate.lab.bench.measuring import Contestant, Gradients
from multirate.lab.bench.traffic import NUMBER

CPU = torch.device("cpu")
# Long enough for what is kept for a tensor or a unit to be next to nothing.
SHAPES = {"0.weight": (256, 256), "0.bias": (256,)}


def test_the_counts_are_those_of_the_derivation():
    counts = {
        traffic.ADAM: 28,
        traffic.CAM_HD: 12 + 28,
        traffic.CAM_HD_ELEMENTWISE: 12 + 28 + 8,
        traffic.SELF_TUNING: 8 + 32,
        traffic.PRODIGY: 40,
        traffic.D_ADAPTATION: 36,
        traffic.SCHEDULE_FREE: 28,
    }
    for counted, expected in counts.items():
        assert counted.bytes == expected
    assert traffic.ADAM.also(reads=1, writes=2, state=3) == traffic.Traffic(5, 5, 5)


@pytest.mark.parametrize("name", [name for name in CANDIDATES if name != "heavyball"])
def test_the_state_that_is_counted_is_the_state_that_is_kept(name):
    candidate = CANDIDATES[name]
    start = {each: torch.full(shape, 0.1) for each, shape in SHAPES.items()}
    contestant = Contestant(candidate, start, Gradients(SHAPES, CPU))
    contestant.step(1.0, time_on_cpu)
    kept = contestant.measured(0, CPU, with_peak=False).state_bytes / sum(value.numel() for value in start.values())
    assert kept == pytest.approx(NUMBER * candidate.traffic.state, abs=0.2)


def test_roles():
    assert [candidate.name for candidate in baselines(list(CANDIDATES.values()))] == [
        "adamw-loop", "adamw-foreach", "adamw-fused",
    ]  # fmt: skip
    for candidate in CANDIDATES.values():
        assert (candidate.role == OWN) == (candidate.citation == "multirate")
        assert (candidate.role == BASELINE) == (candidate.constructor == "torch.optim:AdamW")
    assert CANDIDATES["cam-hd-layer"].settings == {"levels": ("global", "layer")}
