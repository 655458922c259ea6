"""Triton's kernels against the for-loop reference: on a GPU where there is one, else interpreted on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.test_kernels import ADAPTATIONS, RULES, TOLERANCE, agree, gradients, parameters
from tests.test_state_dtype import CASES, a_model, follow, give_gradients, same_bits
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import multirate
from multirate import adaptation, kernels, rules
from multirate.kernels import compiled, foreach, reference
from multirate.kernels.compiled import cuda
from multirate.kernels.compiled.formulas import Pass

pytest.importorskip("triton")

# What is interpreted is NumPy's, which warns of what is meant: gradients that are not finite are to be found.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")

STEPS = 20
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
ON_GPU = pytest.mark.skipif(not GPU, reason="needs a GPU: what is interpreted has no streams, graphs or launches")
INTERPRETED = pytest.mark.skipif(GPU, reason="is about the interpreter, which conftest.py leaves off beside a GPU")

Named = list[tuple[str, nn.Parameter]]


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Lets CPU tensors through, which Triton interprets, and notes the grid of every launch."""
    monkeypatch.setattr(cuda, "_DEVICES", ("cuda", "cpu"))
    assert cuda.available(DEVICE)
    seen: list[tuple[int, ...]] = []
    launch = cuda._launch

    def noted(text: str, grid: tuple[int, ...], *rest: Any, **sizes: Any) -> None:
        seen.append(grid)
        launch(text, grid, *rest, **sizes)

    monkeypatch.setattr(cuda, "_launch", noted)
    return seen


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The kernels that were chosen."""
    found: list[Any] = []
    choose = kernels.choose
    monkeypatch.setattr(kernels, "choose", lambda *facts: found.append(choose(*facts)) or found[-1])
    return found


def placed(named: Named) -> Named:
    return [(name, nn.Parameter(p.detach().to(DEVICE))) for name, p in named]


def run_both(
    rule: rules.Rule,
    chosen: Any,
    levels: tuple[str, ...],
    dtype: torch.dtype,
    in_one_piece: bool = False,
    **options: Any,
) -> None:
    """20 steps, the eighth with a gradient that is not finite."""
    params = [placed(parameters(dtype)) for _ in range(2)]
    if in_one_piece:
        params = [[(name, nn.Parameter(p.detach().contiguous())) for name, p in named] for named in params]
    pair = [
        multirate.MultiRate(p, 1e-3, rule=rule, levels=levels, adaptation=chosen, foreach=foreach, **options)
        for p, foreach in zip(params, (False, None), strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        for (_, first), (_, second), gradient in zip(*params, gradients(params[0], generator), strict=True):
            if step == 7 and gradient.ndim == 4:
                gradient[0, 0, 0, 0] = torch.nan
            first.grad = second.grad = (gradient.contiguous() if in_one_piece else gradient).to(DEVICE)
        for optimizer in pair:
            optimizer.step()
        agree(params, pair, dtype, f"step {step}")
        if dtype in (torch.float16, torch.bfloat16):
            with torch.no_grad():
                for (_, first), (_, second) in zip(*params, strict=True):
                    second.copy_(first)
    assert int(pair[1].skipped_steps) == 1


@pytest.mark.parametrize("rule", RULES)
def test_rules_agree(rule: str, launches: list[Any]) -> None:
    run_both(RULES[rule], *ADAPTATIONS["camhd unit"], torch.float32)
    assert launches


@pytest.mark.parametrize(
    ("chosen", "dtype"),
    [
        *(("camhd unit", dtype) for dtype in TOLERANCE),
        *(("camhd parameter", dtype) for dtype in (torch.float32, torch.bfloat16, torch.complex64)),
    ],
    ids=str,
)
def test_types_agree(chosen: str, dtype: torch.dtype, launches: list[Any]) -> None:
    run_both(RULES["decoupled amsgrad"], *ADAPTATIONS[chosen], dtype)
    assert bool(launches) is not (dtype is torch.complex64 and "parameter" in chosen)


@pytest.mark.parametrize("chosen", ADAPTATIONS)
def test_adaptations_agree(chosen: str) -> None:
    run_both(RULES["adam"], *ADAPTATIONS[chosen], torch.float64, maximize=True, transition=0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chosen", ["camhd parameter", "log rates parameter"])
def test_rates_of_elements_are_worked_out_where_they_move(
    chosen: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = []
    apply = Pass.apply
    monkeypatch.setattr(Pass, "apply", lambda self, *rest: moved.append(1) or apply(self, *rest))
    run_both(rules.Adam(), *ADAPTATIONS[chosen], dtype, in_one_piece=True)
    assert len(moved) == STEPS


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("chosen", ["camhd unit", "camhd parameter", "log rates"])
def test_late_steps_agree(chosen: str, dtype: torch.dtype) -> None:
    run_both(rules.Adam(weight_decay=0.0625), *ADAPTATIONS[chosen], dtype, late=True)


@pytest.mark.parametrize("rule", ["nesterov", "lion", "amsbound"])
def test_short_types_agree_for_rules_that_keep_more(rule: str) -> None:
    run_both(RULES[rule], *ADAPTATIONS["camhd unit"], torch.bfloat16)


# -- averaged iterates -----------------------------------------------------------------------------------------------


def pairs(dtype: torch.dtype) -> list[nn.Sequential]:
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(DEVICE, dtype))
    return made


@pytest.mark.parametrize(
    ("dtype", "levels"),
    [
        (torch.float64, ("global",)),
        (torch.float64, ("layer", "parameter")),
        (torch.float32, ("global", "unit")),
        (torch.bfloat16, ("global", "unit")),
        (torch.float16, ("global", "layer")),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_averaged_iterates_agree(name: str, dtype: torch.dtype, levels: tuple[str, ...], launches: list[Any]) -> None:
    models = pairs(dtype)
    pair = [
        getattr(multirate, name)(m, weight_decay=0.01, levels=levels, foreach=foreach)
        for m, foreach in zip(models, (False, None), strict=True)
    ]
    short = dtype in (torch.bfloat16, torch.float16)
    of_parameters, of_state = TOLERANCE[dtype]
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x = torch.randn(16, 4, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
        for model, optimizer in zip(models, pair, strict=True):
            optimizer.zero_grad()
            model(x).float().square().mean().backward()
        for p, q in zip(*(model.parameters() for model in models), strict=True):
            q.grad = p.grad.clone()  # gradients differ by more than what is asked of the kernels
            if step == 7 and p.ndim == 2:
                p.grad[0, 0] = q.grad[0, 0] = torch.inf
        for optimizer in pair:
            optimizer.step()
        for p, q in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(q, p, **of_parameters)
            for key, value in pair[0].state[p].items():
                torch.testing.assert_close(
                    pair[1].state[q][key], value, **of_state, msg=lambda m, key=key: f"{key}: {m}"
                )
            if short:
                with torch.no_grad():
                    q.copy_(p)
    assert launches
    assert int(pair[1].skipped_steps) == 1


# -- skipped steps, layouts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["AdamHD", "SGDCAMHD", "AdamW", "SGD"])
def test_a_skipped_step_changes_nothing(name: str, dtype: torch.dtype, bad: float) -> None:
    params = [nn.Parameter(torch.linspace(-1, 1, n, device=DEVICE).to(dtype)) for n in (3, 40)]
    optimizer = getattr(multirate, name)(params)
    for _ in range(3):
        for parameter in params:
            parameter.grad = torch.linspace(1, 2, len(parameter), device=DEVICE).to(dtype)
        optimizer.step()
    before = [(p.detach().clone(), {k: v.clone() for k, v in optimizer.state[p].items()}) for p in params]
    params[1].grad[-1] = bad
    optimizer.step()
    for parameter, (value, state) in zip(params, before, strict=True):
        assert torch.equal(parameter, value)
        for key, old in state.items():
            assert key == "skipped" or torch.equal(optimizer.state[parameter][key], old), key
    assert int(optimizer.skipped_steps) == 1


class Shapes(nn.Module):
    """Cells in rows of all lengths, in columns, in both, and in gates."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Linear(1200, 3)
        self.wide = nn.Linear(96, 9)
        self.short = nn.Linear(20, 70)
        self.up = nn.ConvTranspose2d(6, 5, 3)
        self.pointwise = nn.ConvTranspose2d(50, 7, 1)
        self.grouped = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.recurrent = nn.LSTM(5, 4)
        self.pixels = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("chunk", [1 << 14, 128])
@pytest.mark.parametrize("levels", [("global", "unit"), ("global", "gate"), ("global", "layer")], ids="+".join)
def test_cells_of_every_shape(levels: tuple[str, ...], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_CHUNK", chunk)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Shapes().to(DEVICE))
    pair = [
        multirate.MultiRate(m, levels=levels, adaptation=adaptation.CAMHD(), foreach=f)
        for m, f in zip(models, (False, None), strict=True)
    ]
    for _ in range(2):
        for p, q in zip(*(m.parameters() for m in models), strict=True):
            p.grad = torch.randn_like(p) + 0.5
            q.grad = p.grad
        for optimizer in pair:
            optimizer.step()
        named = [list(m.named_parameters()) for m in models]
        agree(named, pair, torch.float32, "+".join(levels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["SGDHD", "AdamHD", "AdamW", "Lion"])
def test_state_is_rounded_at_random_to_the_same_bits(name: str, dtype: torch.dtype, launches: list[Any]) -> None:
    models = [a_model(dtype).to(DEVICE) for _ in range(2)]
    pair = [
        getattr(multirate, name)(model, foreach=foreach, state_dtype=torch.bfloat16, **CASES[name])
        for model, foreach in zip(models, (False, None), strict=True)
    ]
    for step in range(10):
        give_gradients(models, step)
        if step == 4:
            for model in models:
                next(model.parameters()).grad[0, 0, 0, 0] = torch.nan
        for optimizer in pair:
            optimizer.step()
        same_bits(models, pair)
        follow(models, pair)
    assert launches


def test_sums_are_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_CHUNK", 128)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(3, 1200).to(DEVICE))
        optimizer = multirate.AdamHD([("a.weight", weight)], hyper_lr=1e-4)
        for _ in range(3):
            weight.grad = torch.randn(3, 1200).to(DEVICE)
            optimizer.step()
        found.append(weight.detach())
    assert torch.equal(*found)


def test_scattered_tensors_go_elsewhere(used: list[Any]) -> None:
    run_both(RULES["adam"], *ADAPTATIONS["camhd unit"], torch.float32)
    assert set(used) == {reference, compiled, foreach}


# -- what is done once -----------------------------------------------------------------------------------------------


def weights(layers: int = 3) -> tuple[list[nn.Parameter], multirate.MultiRate]:
    params = [nn.Parameter(torch.ones(4, 3, device=DEVICE)) for _ in range(layers)]
    named = [(f"{i}.weight", p) for i, p in enumerate(params)]
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    return params, multirate.MultiRate(named, levels=("global", "layer"), adaptation=adaptation.CAMHD())


@pytest.mark.parametrize("name", ["AdamHD", "AdamCAMHD", "AdamW"])
def test_the_number_of_launches_does_not_grow_with_the_model(name: str, launches: list[Any]) -> None:
    counts = []
    for layers in (2, 12):
        params = [(f"{i}.weight", nn.Parameter(torch.ones(4, 3, device=DEVICE))) for i in range(layers)]
        optimizer = getattr(multirate, name)(params)
        for _ in range(2):
            for _, parameter in params:
                parameter.grad = torch.ones_like(parameter)
            launches.clear()
            optimizer.step()
        counts.append(len(launches))
    assert counts[0] == counts[1] == 2


def test_addresses_are_uploaded_only_when_one_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[Any] = []
    place = cuda._placed
    monkeypatch.setattr(cuda, "_placed", lambda values, *rest: uploads.append(values) or place(values, *rest))
    params, optimizer = weights()
    optimizer.step()
    uploads.clear()
    optimizer.step()
    assert not uploads
    kept = params[1].grad
    params[1].grad = kept.clone()
    optimizer.step()
    assert len(uploads) == 2, "one for what measures, one for what moves"
    optimizer.param_groups[0]["eps"] = 1e-4
    uploads.clear()
    optimizer.step()
    optimizer.step()
    assert len(uploads) <= 1


@pytest.mark.parametrize("values", [[140_737_488_355_327, 94_000_000_000_016, 0], [0.1, -3e300]], ids=["whole", "real"])
def test_numbers_can_be_written_by_launches_alone(values: list[Any]) -> None:
    dtype = torch.int64 if isinstance(values[0], int) else torch.float64
    assert cuda.written(values, dtype, DEVICE).tolist() == values


def test_a_graph_that_begins_with_the_first_step_writes_everything_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be seen of that without a GPU: the numbers are right, and none is remembered beyond the capture."""
    monkeypatch.setattr(cuda, "_capturing", lambda device: True)
    pair = []
    for choice in (None, False):
        params = [nn.Parameter(torch.ones(70, 20, device=DEVICE)), nn.Parameter(torch.ones(3, device=DEVICE))]
        optimizer = multirate.AdamHD(params, hyper_lr=1e-4, foreach=choice)
        for _ in range(3):
            for parameter in params:
                parameter.grad = torch.full_like(parameter, 0.5)
            optimizer.step()
        pair.append(params)
        assert not any(key[0] in ("table", "items") for key in optimizer._plans if isinstance(key, tuple))
    for found, expected in zip(*pair, strict=True):
        torch.testing.assert_close(found, expected)


class NothingIsRead(TorchDispatchMode):
    """Raises where a GPU would make the host wait, or be handed numbers."""

    READS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "lift_fresh")
    """The last is ``torch.tensor(numbers)``."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        assert name not in self.READS, name
        indices = args[1] if name == "index" else []
        assert not any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices), "a mask as an index"
        return function(*args, **(kwargs or {}))


def unwatched(call: Any) -> Any:
    def inner(*arguments: Any, **sizes: Any) -> Any:
        with _disable_current_modes():
            return call(*arguments, **sizes)

    return inner


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {},
    "AdamW": {},
    "RMSprop": {},
    "AdamHD": {},
    "AdamCAMHD": {"levels": ("global", "unit")},
    "SGDCAMHD": {"levels": ("global", "parameter")},
    "Lion": {},
    "RAdam": {},
}


@pytest.mark.parametrize("partly", [False, True], ids=["all gradients", "some gradients"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_is_read_back(name: str, partly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name_of_call in ("_launch", "_placed"):  # addresses are uploaded when they change, from pinned memory
        monkeypatch.setattr(cuda, name_of_call, unwatched(getattr(cuda, name_of_call)))
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)).to(DEVICE)
    optimizer = getattr(multirate, name)(model, **OPTIMIZERS[name])

    def step() -> None:
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = None if partly and i == 1 else torch.ones_like(parameter)
        optimizer.step()

    for _ in range(3):
        step()
    with NothingIsRead():
        step()


# -- where it cannot be used -----------------------------------------------------------------------------------------


def test_without_triton_the_other_kernels_serve(monkeypatch: pytest.MonkeyPatch, used: list[Any]) -> None:
    cuda._works.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "triton.language", None)
    monkeypatch.setattr(compiled.cpu, "available", lambda: False)
    try:
        _, optimizer = weights()
        optimizer.step()
        assert compiled not in used
    finally:
        cuda._works.cache_clear()


@INTERPRETED
def test_the_cpu_is_never_chosen_by_itself(monkeypatch: pytest.MonkeyPatch, launches: list[Any]) -> None:
    monkeypatch.undo()
    assert not cuda.available(torch.device("cpu"))


def test_tracing_goes_elsewhere(used: list[Any]) -> None:
    _, optimizer = weights()
    torch.compile(optimizer.step, backend="eager")()
    assert compiled not in used


@pytest.mark.skipif(GPU, reason="beside a GPU every test compiles")
def test_what_is_interpreted_compiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes more than the compiler does, which needs no GPU up to the machine code."""
    sources = {}
    launch = cuda._launch
    pointers = {torch.int32: "*i32", torch.int64: "*i64", torch.float32: "*fp32", torch.float64: "*fp64"}

    def noted(text: str, grid: tuple[int, ...], tensors: Any, **sizes: Any) -> None:
        sources[text] = [text, [pointers[t.dtype] for t in tensors], sizes]
        launch(text, grid, tensors, **sizes)

    monkeypatch.setattr(cuda, "_launch", noted)
    for dtype in (torch.bfloat16, torch.float64):
        weight = nn.Parameter(torch.ones(8, 4, dtype=dtype, device=DEVICE))
        for optimizer in (
            multirate.AdamW([("a.weight", weight)], levels=("global", "unit")),
            multirate.AdamHD([weight], state_dtype=torch.bfloat16),
            multirate.MultiRate([("a.weight", weight)], rule=rules.Lion(), adaptation=adaptation.CAMHD()),
        ):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    script = [sys.executable, "-c", COMPILE]
    done = subprocess.run(
        script, input=json.dumps([*sources.values()]), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(sources) >= 9


COMPILE = """
import json, linecache, sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget

count = 0
for text, pointers, sizes in json.load(sys.stdin):
    name = f"<{count}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    scope = {"tl": tl, "__name__": "generated"}
    exec(compile(text, name, "exec"), scope)
    kernel = triton.jit(scope["kernel"])
    signature = dict(zip(kernel.arg_names, [*pointers, *["constexpr"] * len(sizes)], strict=True))
    constants = {(kernel.arg_names.index(name),): value for name, value in sizes.items()}
    divisible = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))}
    source = triton.compiler.ASTSource(kernel, signature, constants, divisible)
    found = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False})
    assert found.asm["ptx"]
    assert "fma" not in found.asm["ptx"], "products and sums have to be rounded one by one"
    count += 1
print(count)
"""


# -- on a GPU --------------------------------------------------------------------------------------------------------


@pytest.fixture
def strict() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@ON_GPU
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_host_never_waits(name: str, strict: None) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)).to(DEVICE)
    optimizer = getattr(multirate, name)(model, **OPTIMIZERS[name])
    for step in range(6):
        optimizer.zero_grad()
        model(torch.ones(2, 4, device=DEVICE)).square().sum().backward()
        if step == 3:
            torch.cuda.set_sync_debug_mode("error")
        optimizer.step()


@ON_GPU
@pytest.mark.parametrize("own_gradients", [False, True], ids=["gradients in place", "gradients of the graph"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_captured_step_is_an_ordinary_one(name: str, own_gradients: bool) -> None:
    runs = []
    for captured in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)).to(DEVICE)
        optimizer = getattr(multirate, name)(model, **OPTIMIZERS[name])
        x = torch.ones(2, 4, device=DEVICE)

        def step(model: nn.Module = model, optimizer: Any = optimizer, x: Tensor = x) -> None:
            optimizer.zero_grad(set_to_none=own_gradients)
            model(x).square().sum().backward()
            optimizer.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
        for t in range(5):
            x.copy_(torch.full((2, 4), 1.0 + 0.1 * t))
            graph.replay() if captured else step()
        runs.append([p.detach() for p in model.parameters()])
    for eager, replayed in zip(*runs, strict=True):
        torch.testing.assert_close(replayed, eager, rtol=1e-5, atol=1e-6)


@ON_GPU
def test_an_eager_step_does_not_disturb_a_captured_one() -> None:
    params, optimizer = weights()
    optimizer.step()
    own = [p.grad for p in params]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for parameter in params:
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    for gradient in own:
        gradient.fill_(-1.0)
    for _ in range(60):
        graph.replay()
    assert all((p > b).all() for p, b in zip(params, before, strict=True)), "the replay took its own gradients"
