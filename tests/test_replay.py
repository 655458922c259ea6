"""Arithmetic on a few numbers gives the same bits whether torch does it or a replay."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import multirate
from multirate import replay
from multirate.optimizer import MultiRate
from multirate.replay import Replay, Replays, interpreter
from multirate.replay.interpreter import Row, Table

KINDS = (torch.float32, torch.float64)
ROWS, COLUMNS = 3, 7
NODES = torch.tensor([0, 0, 1, 3, 3, 2, 1])

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "arithmetic": lambda a, b: (a + b, a - b, a * b, a / b, -a, a.abs(), a.square(), a.reciprocal(), a.ceil()),
    "numbers": lambda a, b: (a + 0.1, a - 0.1, 1.0 - a, a * 0.3, a / 0.7, 0.7 / a),
    "extremes": lambda a, b: (torch.maximum(a, b), torch.minimum(a, b), a.amax(0), a.amin(1, keepdim=True), a.amax()),
    "clamps": lambda a, b: (a.clamp(-0.1, 0.2), a.clamp(min=0.1), a.clamp(max=0.1), a.clamp_min(0.3), a.clamp_max(0.3)),
    "comparisons": lambda a, b: (a > b, a >= b, a < b, a <= b, a == b, a != b, a > 0.1, a.ne(0), torch.isfinite(a)),
    "logic": lambda a, b: ((a > 0) & (b > 0), (a > 0) | (b > 0), ~(a > 0), (a > 0).all(), (a > 9).any(1), a.gt(0) * a),
    "rounded otherwise": lambda a, b: (
        a.exp(), a.expm1(), a.abs().sqrt(), a.abs().rsqrt(), a.abs().log(), a.abs().log1p(), a.sign(), a.pow(0.125),
        a.pow(2), torch.lerp(a, b, 0.3), torch.lerp(a, b, b.clamp(0, 1)), a.sum(), a.sum(1),
    ),
    "choices": lambda a, b: (torch.where(a > b, a, b), torch.where(a > 0, a, 1.0), torch.where(a > 0, float("inf"), b)),
    "parts": lambda a, b: (a[0], a[:, 2:5] * 2, a.unbind()[1] + 1, a.unsqueeze(0).expand(2, ROWS, COLUMNS) * b, a.t()),
    "wholes": lambda a, b: (
        torch.stack([a, b]), torch.stack([a, b], 1), torch.cat([a, b]), torch.cat([a, b[:, :2]], 1),
    ),
    "places": lambda a, b: (
        a[:, NODES % COLUMNS], a[0][NODES], a.new_zeros(ROWS, 4).index_add(-1, NODES, b),
        a[0].index_add(0, NODES, b[0]), a.index_copy(1, torch.tensor([5, 1]), b[:, :2]),
        torch.zeros_like(a).scatter_reduce(1, NODES.expand_as(b), b, "amax"),
    ),
    "copies": lambda a, b: (a.to(torch.float64), (a > 0).to(a.dtype), a.clone(), torch.full_like(a, 2.0) * b),
    "in place": lambda a, b: (
        a.clone().add_(b).mul_(2.0), torch.zeros_like(a).copy_(b), torch.empty_like(a).fill_(3.0),
        a.clone().lerp_(b, 0.1),
    ),
    "something else": lambda a, b: (a.cumsum(0), torch.nan_to_num(a), a.add(b, alpha=0.5), a.atan2(b)),
}  # fmt: skip


def some(dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers of all magnitudes, and such as are none."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(ROWS, COLUMNS, generator=generator, dtype=dtype)
    numbers = drawn * 10 ** torch.empty_like(drawn).uniform_(-6, 6, generator=generator)
    if seed % 2:
        numbers[0, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    return numbers


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in tensors(part)]


def bits(result: Any) -> list[Any]:
    return [t.nan_to_num(0.125).tolist() if t.is_floating_point() else t.tolist() for t in tensors(result)]


@pytest.fixture(params=["interpreted", "called"])
def interpreted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Replay by the compiled interpreter as far as it goes, or by calls of NumPy and torch alone."""
    if request.param == "called":
        monkeypatch.setattr(interpreter, "machine", lambda: None)
    elif interpreter.machine() is None:
        pytest.skip("no Numba")
    return request.param == "interpreted"


BY_CALLS = {"something else"}
"""What the interpreter does nothing of."""


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_replay_gives_the_bits_that_torch_gives(name: str, dtype: torch.dtype, interpreted: bool) -> None:
    operation = OPERATIONS[name]
    recorded = Replay(operation, [some(dtype, 0), some(dtype, 2)])
    assert recorded.complete
    assert any(isinstance(call.function, Table) for call in recorded._calls or ()) == (
        interpreted and name not in BY_CALLS
    )
    for seed in range(20):
        inputs = [some(dtype, seed), some(dtype, seed + 100)]
        expected = operation(*inputs)
        found = recorded.run(inputs)
        assert [t.dtype for t in tensors(found)] == [t.dtype for t in tensors(expected)]
        assert bits(found) == bits(expected)


def test_what_is_recorded_of_all_numbers_is_asked_again(interpreted: bool) -> None:
    bad, good = torch.tensor([float("nan"), 9.0, 1.0]), torch.tensor([1.0, 2.0, 3.0])
    recorded = Replay(lambda a: (torch.isfinite(a).all(), a.ne(a).any(), a.amax(), a.amin(), a[0].amax()), [bad])
    assert [value.item() for value in recorded.run([good])] == [True, False, 3.0, 1.0, 1.0]
    assert [value.item() for value in recorded.run([bad])][:2] == [False, True]


def test_floats_of_two_types_are_left_to_torch(interpreted: bool) -> None:
    def mixed(vector: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
        return vector * number, vector > number

    inputs = [torch.full((5,), 0.1), torch.tensor(0.1, dtype=torch.float64)]
    recorded = Replay(mixed, inputs)
    assert bits(recorded.run(inputs)) == bits(mixed(*inputs))


def test_powers_of_two_of_other_types(interpreted: bool) -> None:
    for values in (torch.tensor([69_999], dtype=torch.int32), torch.tensor([0.1 + 0.7j])):
        recorded = Replay(lambda a: a.pow(2.0), [values])
        assert not recorded.complete or recorded.run([values]).tolist() == values.pow(2.0).tolist()


def test_without_a_numba_that_compiles_numpy_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> int:
        raise RuntimeError("cannot compile")

    monkeypatch.setattr(interpreter, "compiled", fails)
    interpreter.machine.cache_clear()
    calls = Replay(lambda a: a + 1, [torch.zeros(2)])._calls
    interpreter.machine.cache_clear()
    assert calls is not None
    assert [call.function for call in calls] == [np.add]


def test_what_lasts_is_read_and_written_as_it_is_then(interpreted: bool) -> None:
    total, last = torch.zeros(3), torch.zeros(3)

    def add(new: Tensor) -> Tensor:
        total[1:].add_(new[1:])
        torch._foreach_copy_([last], [new])
        return total * 2

    recorded = Replay(add, [torch.ones(3)])
    assert total.tolist() == [0, 1, 1]
    total.fill_(10.0)
    assert recorded.run([torch.full((3,), 5.0)]).tolist() == [20, 30, 30]
    assert (total.tolist(), last.tolist()) == ([10, 15, 15], [5, 5, 5])


WHOLLY_INTERPRETED = ("arithmetic", "numbers", "extremes", "clamps", "comparisons", "logic", "choices")


@pytest.mark.parametrize("name", WHOLLY_INTERPRETED)
def test_what_is_interpreted_is_one_call(name: str) -> None:
    pytest.importorskip("numba")
    calls = Replay(OPERATIONS[name], [some(torch.float32, 0), some(torch.float32, 2)])._calls
    assert calls is not None
    assert [type(call.function) for call in calls] == [Table]


def bits_of(numbers: np.ndarray[Any, Any]) -> list[int]:
    """The bits of numbers of float32 one by one; those that are none are one."""
    return np.where(np.isnan(numbers), np.float32("nan"), numbers).astype(np.float32).view(np.uint32).tolist()


def drawn(count: int, seed: int) -> np.ndarray[Any, Any]:
    """Numbers of float32 with any bits: of every magnitude down to the smallest, infinite ones and none."""
    found = np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32).copy()
    found[: 1 << 6] = np.random.default_rng(seed).choice([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0], 1 << 6)
    return found


@pytest.mark.parametrize("function", [*interpreter._CODES], ids=str)
def test_every_operation_is_rounded_as_numpy_rounds_it(function: np.ufunc) -> None:
    pytest.importorskip("numba")
    for seed in range(200):
        arguments = [drawn(interpreter.MOST, 2 * seed), drawn(interpreter.MOST, 2 * seed + 1)][: function.nin]
        with np.errstate(all="ignore"):
            expected = function(*arguments)
        found = np.zeros_like(expected)
        Table(interpreter.elementwise(function, found, arguments) or [])()
        assert bits_of(found) == bits_of(expected)


def run(rows: Sequence[Row] | None, *changed: np.ndarray[Any, Any]) -> None:
    """Do what rows say after what they read has changed: nothing of the time when they were made may stay."""
    assert rows is not None
    for values in changed:
        values[...] = values[..., ::-1].copy() + 1.0
    Table(rows)()


def test_places_and_extremes_of_every_axis() -> None:
    pytest.importorskip("numba")
    generator = np.random.default_rng(0)
    values = generator.normal(size=(2, 3, 4)).astype(np.float32)
    for axis in (0, 1, 2, -1):
        index = generator.integers(0, values.shape[axis], 5)
        out = np.empty_like(np.take(values, index, axis))
        run(interpreter.take(out, values, index, axis), values)
        assert out.tolist() == np.take(values, index, axis).tolist()
        source, added = generator.normal(size=out.shape).astype(np.float32), np.empty_like(values)
        run(interpreter.add_at(added, values, axis, index, source), values, source)
        there = torch.from_numpy(values).index_add(axis, torch.from_numpy(index), torch.from_numpy(source))
        assert added.tolist() == there.tolist()
    for axes in (None, (0,), (1,), (-1,), (0, 2), (0, 1, 2)):
        for function in (np.maximum, np.minimum):
            out = np.empty(np.shape(function.reduce(values, axis=axes)), np.float32)
            run(interpreter.reduction(function, out, values, axes), values)
            assert out.tolist() == function.reduce(values, axis=axes).tolist()
    single, out = np.ones((), np.float32), np.empty((), np.float32)
    rows = interpreter.reduction(np.maximum, out, single, None)
    single[...] = 5.0
    run(rows)
    assert out == 5.0


def test_what_cannot_be_interpreted_is_left_to_calls() -> None:
    pytest.importorskip("numba")
    floats, whole, large = np.ones(6, np.float32), np.ones(6, np.int64), np.ones(interpreter.MOST + 1, np.float32)
    assert interpreter.elementwise(np.add, np.empty_like(large), [large, large]) is None  # NumPy is faster
    assert interpreter.elementwise(np.add, np.empty_like(whole), [whole, whole]) is None  # float64 has fewer digits
    assert interpreter.elementwise(np.hypot, np.empty_like(floats), [floats, floats]) is None
    assert interpreter.elementwise(np.add, floats, [np.ones(()), floats]) is None  # rounded twice
    assert interpreter.elementwise(np.add, floats[1:], [floats[:-1], 1.0]) is None  # would read what it has written
    assert interpreter.elementwise(np.add, floats, [floats, 1.0]) is not None
    assert interpreter.copy(floats[1:], floats[:-1]) is None
    assert interpreter.take(floats[:2], floats, np.array([1, 0]), 0) is None
    assert interpreter.masked(floats, 1.0, floats) is None
    assert interpreter.add_at(np.empty((), np.float32), np.ones((), np.float32), 0, np.array([0]), floats[:1]) is None
    deep = np.ones((2, 2, 2, 2), np.float32)
    assert interpreter.copy(np.empty_like(deep), deep) is None


def test_arguments_are_never_written_to() -> None:
    given = [torch.ones(2), torch.full((2,), 2.0)]
    recorded = Replay(lambda a: a + 1, given[:1])
    assert recorded.run(given[1:]).tolist() == [3, 3]
    assert [g.tolist() for g in given] == [[1, 1], [2, 2]]


def test_what_comes_again_is_recorded_and_what_cannot_be_goes_on_in_torch() -> None:
    replays, calls = Replays(), []

    def known(a: Tensor) -> Tensor:
        calls.append("known")
        return a + 1

    def unknown(a: Tensor) -> Tensor:
        calls.append("unknown")
        return a[a > 0]

    for i in range(6):
        assert replays("known", known, torch.full((2,), float(i))).tolist() == [i + 1] * 2
        assert replays("unknown", unknown, torch.tensor([1.0, -1.0])[: 1 + i % 2]).tolist() == [1]
    assert calls.count("known") == 2
    assert calls.count("unknown") == 6
    replays.belong_to(object())
    replays("known", known, torch.zeros(2))
    assert calls.count("known") == 3


def test_kinds_without_end_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_MOST", 5)
    replays = Replays()
    for i in range(100):
        for _ in range(4 if i % 2 else 1):
            assert replays(i, lambda a, i=i: a + i, torch.zeros(())).item() == i
        assert len(replays._known) <= 5


# -- whole steps -----------------------------------------------------------------------------------------------------

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdamW": ("AdamW", {}),
    "AdamW by global": ("AdamW", {"levels": ("global",)}),
    "AdamW by layer and unit": ("AdamW", {"levels": ("layer", "unit")}),
    "AdamW with a transition": ("AdamW", {"transition": 0.05}),
    "Adam": ("Adam", {"amsgrad": True}),
    "SGD": ("SGD", {}),
    "RMSprop": ("RMSprop", {}),
    "Lion": ("Lion", {}),
    "RAdam": ("RAdam", {}),
    "NAdam": ("NAdam", {}),
    "Adagrad": ("Adagrad", {}),
    "SGDHD": ("SGDHD", {"momentum": 0.9}),
    "AdamHD, multiplicative": ("AdamHD", {"multiplicative": True}),
    "AdamCAMHD": ("AdamCAMHD", {}),
    "AdamCAMHD, late": ("AdamCAMHD", {"late": True}),
    "AdaBoundCAMHD": ("AdaBoundCAMHD", {}),
}


def trained(setting: str, dtype: torch.dtype, steps: int = 25) -> tuple[MultiRate, list[list[Any]]]:
    """An optimizer after all that can happen, and everything it remembered at every step."""
    name, options = SETTINGS[setting]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)
    optimizer: MultiRate = getattr(multirate, name)(model.named_parameters(), **options)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    seen = []
    for t in range(steps):
        generator = torch.Generator().manual_seed(t)
        optimizer.zero_grad()
        model(torch.randn(8, 5, generator=generator, dtype=dtype)).square().mean().backward()
        if t in (6, 18):
            model[0].weight.grad.fill_(float("nan"))
        if 9 <= t < 14:
            model[3].bias.grad = None
        optimizer.step()
        if t > 15:
            decay.step()
        if t == 20:
            optimizer.param_groups[0]["lr"] = 0.0
        state = [value for p in model.parameters() for value in optimizer.state[p].values()]
        seen.append([value.tolist() for value in (*model.parameters(), *state)])
    return optimizer, seen


@pytest.mark.parametrize(
    ("setting", "dtype"),
    [*((setting, torch.float32) for setting in SETTINGS), ("AdamW", torch.float64), ("AdamCAMHD", torch.float64)],
    ids=str,
)
def test_replayed_steps_are_those_of_torch_to_the_bit(
    setting: str, dtype: torch.dtype, interpreted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, replayed = trained(setting, dtype)
    known = optimizer._replays._known
    assert any(isinstance(each, Replay) for each in known.values())
    assert None not in known.values(), "a part of a step cannot be replayed"
    monkeypatch.setattr(MultiRate, "_kind_of_step", lambda *_: None)
    plain, expected = trained(setting, dtype)
    assert not plain._replays._known
    assert str(replayed) == str(expected)  # NaN is like itself


@pytest.mark.parametrize("setting", ["Adam", "SGD", "AdamCAMHD", "AdamCAMHD, late", "SGDHD"])
def test_a_step_that_is_skipped_may_be_the_one_that_is_recorded(setting: str, interpreted: bool) -> None:
    name, options = SETTINGS.get(setting) or (setting, {})
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = getattr(multirate, name)(model.named_parameters(), **options)
    for t in range(12):
        optimizer.zero_grad()
        model(torch.randn(8, 5)).square().mean().backward()
        if t in (1, 7):
            model.weight.grad[0, 0] = float("nan")
        if t > 5:
            model.bias.grad = None  # other steps from here on, of which the second is recorded
        optimizer.step()
        if t == 7:
            before = model.weight.detach().clone()
    assert int(optimizer.skipped_steps) == 2
    assert bool((model.weight != before).all())


@pytest.mark.parametrize("setting", ["AdamW", "AdamCAMHD"])
def test_the_kept_schedule_is_that_of_the_present_lr(setting: str) -> None:
    def run(keep: bool) -> list[Any]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        groups = [{"params": [model.weight], "lr": 1e-2}, {"params": [model.bias], "lr": 1e-3}]
        optimizer = getattr(multirate, setting)(groups)
        seen, state = [], optimizer.state_dict()
        for t in range(14):
            if t in (4, 9):
                optimizer.param_groups[t % 2]["lr"] *= 0.1
            if t == 6:
                optimizer.load_state_dict(state)
            if t == 11:
                optimizer.param_groups[0]["lr"] = torch.tensor(3e-3)
            if not keep:
                optimizer._plans.pop("schedule", None)
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            assert ("schedule" in optimizer._plans) == (t < 11 or keep)
            seen.append([value.tolist() for value in (*model.parameters(), optimizer._memory["factor"])])
        return seen

    assert run(keep=True) == run(keep=False)


def test_changed_options_are_not_replayed() -> None:
    """Rates are learned with the options of the present step."""
    found = []
    for replaying in (True, False):
        point = nn.Parameter(torch.ones(4))
        optimizer = multirate.AdamCAMHD([point], levels=("global",), weights=(1.0,), lr=0.1)
        for t in range(12):
            if t == 8:
                optimizer.param_groups[0]["betas"] = (0.5, 0.6)
                if not replaying:
                    optimizer._replays = Replays()
            point.grad = torch.cos(point.detach() * t)
            optimizer.step()
        found.append(point.tolist())
    assert found[0] == found[1]


def test_options_that_can_change_unseen_are_left_to_torch() -> None:
    point = nn.Parameter(torch.ones(4))
    optimizer = multirate.AdamCAMHD([point], levels=("global",), weights=(1.0,), lr=0.1, betas=[0.9, 0.99])
    betas = optimizer.param_groups[0]["betas"]
    assert isinstance(betas, list)
    reference = nn.Parameter(torch.ones(4))
    plain = multirate.AdamCAMHD([reference], levels=("global",), weights=(1.0,), lr=0.1)
    for t in range(8):
        if t == 4:
            betas[0] = 0.5
        plain.param_groups[0]["betas"] = tuple(betas)
        point.grad = torch.cos(point.detach() * t)
        reference.grad = torch.cos(reference.detach() * t)
        optimizer.step()
        plain.step()
    assert not optimizer._replays._known
    assert point.tolist() == reference.tolist()


@pytest.mark.parametrize("options", [{"foreach": False}, {"levels": ("global", "parameter")}, {"in_backward": True}])
def test_the_reference_and_what_it_was_not_made_for_stay_in_torch(options: dict[str, Any]) -> None:
    model = nn.Linear(3, 2)
    optimizer = multirate.AdamW(model.named_parameters(), **options)
    for _ in range(5):
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    assert not optimizer._replays._known
