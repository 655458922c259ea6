"""Goals are judged by what a run measured, and by nothing else."""

import pytest

from multirate.lab.bench.candidates import CANDIDATES
from multirate.lab.bench.goals import GOALS, rows, run_of
from multirate.lab.bench.measuring import Measured, Rounds
from multirate.lab.bench.steps import CaseRounds
from multirate.lab.bench.training import TrainingTiming


def case(name, seconds, parameters=1000, state=8000, is_model=True):
    """A case whose copying takes 1 µs for 1000 elements, 8 GB/s."""
    optimizers = tuple(Measured(each, (lap,), (lap,), lap, state, 0) for each, lap in seconds.items())
    return CaseRounds(name, name, is_model, parameters, 3, (Rounds(optimizers, 1000, (1e-6,), (1e-6,)),), None)


def row(cases, index, training=(), device="cpu"):
    return rows(run_of(device, cases, training))[index]


def test_the_worst_place_is_judged():
    cases = [
        case("vit", {"adamw-fused": 1.0, "cam-hd-layer": 1.2}),
        case("gpt2", {"adamw-fused": 1.0, "cam-hd-layer": 1.4}),
        case("tiny", {"adamw-fused": 1.0, "cam-hd-layer": 9.0}, is_model=False),
    ]
    assert row(cases, 0) == {
        "goal": GOALS[0].text, "where": "gpt2", "aim": "≤ 1.50 ×", "measured": "1.40 ×", "verdict": "met",
    }  # fmt: skip
    on_gpu = row(cases, 0, device="cuda")
    assert (on_gpu["aim"], on_gpu["verdict"]) == ("≤ 1.35 ×", "missed")


def test_fused_is_what_goals_refer_to_and_without_it_nothing_is_judged():
    slow = case("vit", {"adamw-foreach": 1.0, "adamw-fused": 2.0, "cam-hd-layer": 2.0})
    assert row([slow], 0)["measured"] == "1.00 ×"
    for index in range(len(GOALS)):
        empty = row([], index)
        assert (empty["where"], empty["measured"], empty["verdict"]) == ("not measured", "–", "–")
    assert row([case("vit", {"cam-hd-layer": 2.0})], 0)["verdict"] == "–"


def test_peers_are_those_that_adapt_their_rate():
    cases = [
        case(
            "vit", {"adamw-fused": 1.0, "cam-hd-layer": 2.0, "prodigy": 4.0, "d-adapt-adam": 2.9, "schedule-free": 1.0}
        )
    ]
    found = row(cases, 5)
    assert (found["where"], found["measured"], found["verdict"]) == ("d-adapt-adam, vit", "1.45 ×", "missed")


def test_the_share_is_that_of_the_slowest_of_ours_on_the_flat_tensor():
    # 28 and 40 bytes times 1000 elements; 8 GB/s copied.
    flat = case("flat", {"adamw-fused": 1e-5, "cam-hd-layer": 5.1e-6, "adam-hd": 6.25e-6}, is_model=False)
    found = row([flat], 7)
    assert (found["where"], found["aim"], found["measured"]) == ("adam-hd", "≥ 75.0 %", "80.0 %")
    assert found["verdict"] == "met"


def test_tiny_tensors_are_held_against_foreach():
    tiny = case("tiny", {"adamw-foreach": 1.0, "adamw-fused": 0.1, "cam-hd-layer": 1.2}, is_model=False)
    assert row([tiny], 8)["measured"] == "1.20 ×"


def test_training_and_extra_bytes():
    training = [
        TrainingTiming("gpt", "adamw-fused", 1, (1.0, 1.0, 1.0), ()),
        TrainingTiming("gpt", "cam-hd-layer", 1, (1.019, 1.019, 1.05), ()),
    ]
    found = row([], 9, training)
    assert (found["aim"], found["measured"], found["verdict"]) == ("≤ 3.0 %", "1.9 %", "met")
    assert row([], 9, training, "cuda")["verdict"] == "met"
    seven = [
        TrainingTiming("gpt", "adamw-fused", 1, (1.0,) * 7, ()),
        TrainingTiming("gpt", "cam-hd-layer", 1, (0.99, 1.0, 1.01, 1.02, 1.03, 1.04, 1.05), ()),
    ]
    assert row([], 9, seven)["where"] == "gpt, 95 % interval -1.0 to +5.0 %"
    rows_of = {state: row([case("vit", {"cam-hd-unit": 1.0}, state=state)], 10) for state in (8010, 12000)}
    assert (rows_of[8010]["measured"], rows_of[8010]["verdict"]) == ("0.01", "met")
    elementwise = row([case("vit", {"cam-hd-parameter": 1.0}, state=12000)], 10)
    assert elementwise["where"] == "not measured"
    assert (rows_of[12000]["measured"], rows_of[12000]["verdict"]) == ("4.00", "missed")


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.text)
def test_every_goal_has_an_aim_for_both_kinds_of_device(goal):
    assert set(goal.bounds) == {"cpu", "cuda"}


def test_what_goals_name_is_in_the_table():
    for name in ("adamw-fused", "adamw-foreach", "cam-hd-layer", "cam-hd-unit", "cam-hd-parameter", "adamw-self"):
        assert name in CANDIDATES
