"""Which elements share a rate, and sums over them against a plain loop."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import nn

import multirate
from multirate.levels import ELEMENT, Level, Tree, describe_parameters, module_kinds
from multirate.tensorlist import TensorList

BLOCK = Level("block", lambda name: name.split(".")[0])


def tree_of(model: nn.Module, *levels: Any, with_kinds: bool = True) -> Tree:
    named = list(model.named_parameters())
    groups = [{"params": [p for _, p in named], "param_names": [n for n, _ in named]}]
    return Tree(levels, describe_parameters(groups, module_kinds(model) if with_kinds else {}))


def members(tree: Tree, level: str) -> dict[str, torch.Tensor]:
    """The node of every element of every tensor."""
    nodes = torch.arange(tree.size[level], dtype=torch.float64)
    spread = tree.lift(nodes, level, ELEMENT)
    return {i.name: v.expand(i.shape).long() for i, v in zip(tree.infos, spread, strict=True)}


def node_sets(tree: Tree, level: str) -> set[frozenset[tuple[str, tuple[int, ...]]]]:
    sets: dict[int, set[tuple[str, tuple[int, ...]]]] = defaultdict(set)
    for name, nodes in members(tree, level).items():
        for at in product(*(range(n) for n in nodes.shape)):
            sets[int(nodes[at])].add((name, at))
    return {frozenset(s) for s in sets.values()}


def expected_sets(
    model: nn.Module, key: Callable[[str, tuple[int, ...]], Hashable]
) -> set[frozenset[tuple[str, tuple[int, ...]]]]:
    sets: dict[Hashable, set[tuple[str, tuple[int, ...]]]] = defaultdict(set)
    for name, p in model.named_parameters():
        for at in product(*(range(n) for n in p.shape)):
            sets[key(name, at)].add((name, at))
    return {frozenset(s) for s in sets.values()}


def rows(name: str, at: tuple[int, ...]) -> Hashable:
    return name.rpartition(".")[0], at[0]


class Root(nn.Module):
    """Puts modules under the names they are given."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def transposed_key(groups: int, out_per_group: int, in_per_group: int) -> Callable[[str, tuple[int, ...]], Hashable]:
    def key(name: str, at: tuple[int, ...]) -> Hashable:
        return (at[0] // in_per_group) * out_per_group + at[1] if name.endswith("weight") else at[0]

    return key


UNITS: dict[str, tuple[nn.Module, Callable[[str, tuple[int, ...]], Hashable]]] = {
    "linear": (Root(a=nn.Linear(3, 4), b=nn.Linear(4, 2)), rows),
    "square linear": (Root(a=nn.Linear(3, 3)), rows),
    "linear without bias": (Root(a=nn.Linear(3, 4, bias=False)), rows),
    "conv": (Root(a=nn.Conv2d(3, 4, 2)), rows),
    "grouped conv": (Root(a=nn.Conv2d(4, 6, 2, groups=2)), rows),
    "depthwise conv": (Root(a=nn.Conv1d(4, 4, 3, groups=4)), rows),
    "transposed": (Root(a=nn.ConvTranspose2d(3, 5, 2)), transposed_key(1, 5, 3)),
    "square transposed": (Root(a=nn.ConvTranspose1d(4, 4, 2)), transposed_key(1, 4, 4)),
    "grouped transposed": (Root(a=nn.ConvTranspose2d(4, 6, 2, groups=2)), transposed_key(2, 3, 2)),
    "depthwise transposed": (Root(a=nn.ConvTranspose1d(4, 4, 2, groups=4)), transposed_key(4, 1, 1)),
    "transposed without bias": (
        Root(a=nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False)),
        transposed_key(2, 3, 2),
    ),
    "embedding": (Root(a=nn.Embedding(5, 3)), rows),
    "layer norm": (Root(a=nn.LayerNorm(4)), lambda name, at: name),
    "batch norm": (Root(a=nn.BatchNorm2d(4)), lambda name, at: name),
    "rms norm": (Root(a=nn.RMSNorm(4)), lambda name, at: name),
    "group norm": (Root(a=nn.GroupNorm(2, 4)), lambda name, at: name),
    "square lstm": (
        Root(a=nn.LSTM(3, 3, num_layers=2, bidirectional=True)),
        lambda name, at: (name.partition("_l")[2], at[0]),
    ),
    "lstm": (Root(a=nn.LSTM(2, 3)), lambda name, at: at[0]),
    "gru": (Root(a=nn.GRU(2, 3)), lambda name, at: at[0]),
    "attention": (
        Root(a=nn.MultiheadAttention(4, 2)),
        lambda name, at: (name.replace("weight", "").replace("bias", ""), at[0]),
    ),
}


@pytest.mark.parametrize("kind", UNITS)
def test_units(kind: str) -> None:
    model, key = UNITS[kind]
    assert node_sets(tree_of(model, "unit"), "unit") == expected_sets(model, key)


@pytest.mark.parametrize("kind", [k for k in UNITS if k not in ("square transposed", "depthwise transposed")])
def test_units_from_names_alone(kind: str) -> None:
    model, key = UNITS[kind]
    if kind == "transposed without bias":
        pytest.skip("nothing but the module tells it from an ordinary convolution")
    assert node_sets(tree_of(model, "unit", with_kinds=False), "unit") == expected_sets(model, key)


@pytest.mark.parametrize("kind", UNITS)
def test_layers(kind: str) -> None:
    model, _ = UNITS[kind]
    expected = expected_sets(model, lambda name, at: name.rpartition(".")[0])
    assert node_sets(tree_of(model, "layer"), "layer") == expected


@pytest.mark.parametrize("with_kinds", [True, False])
@pytest.mark.parametrize(
    ("module", "number"),
    [
        (nn.LSTM(2, 3, num_layers=2), 4),
        (nn.GRU(2, 3, bidirectional=True), 3),
        (nn.LSTM(2, 3, bias=False), 4),
        (nn.LSTM(3, 6, proj_size=2), 4),
        (nn.LSTM(3, 4, proj_size=2), 4),
    ],
)
def test_gates(module: nn.Module, number: int, with_kinds: bool) -> None:
    model = Root(a=module, b=nn.Linear(3, 2))
    sizes = {n: p.shape[0] for n, p in model.named_parameters()}

    def key(name: str, at: tuple[int, ...]) -> Hashable:
        if name.startswith("b."):
            return "b"
        if "_hr" in name:
            return name
        return name.partition("_l")[2], at[0] // (sizes[name] // number)

    tree = tree_of(model, "gate", with_kinds=with_kinds)
    assert node_sets(tree, "gate") == expected_sets(model, key)


@pytest.mark.parametrize(("cell", "number"), [(nn.LSTMCell(2, 3), 4), (nn.GRUCell(2, 3), 3)])
def test_gates_of_cells(cell: nn.Module, number: int) -> None:
    model = Root(a=cell)
    sizes = {n: p.shape[0] for n, p in model.named_parameters()}
    expected = expected_sets(model, lambda name, at: at[0] // (sizes[name] // number))
    assert node_sets(tree_of(model, "gate"), "gate") == expected
    assert node_sets(tree_of(model, "unit"), "unit") == expected_sets(model, lambda name, at: at[0])


@pytest.mark.parametrize("module", [nn.RNN(2, 3), nn.RNNCell(2, 3), nn.Linear(2, 3), nn.MultiheadAttention(4, 2)])
def test_what_has_no_gates_is_a_single_one(module: nn.Module) -> None:
    model = Root(a=module)
    tree = tree_of(model, "layer", "unit")
    assert len(node_sets(tree_of(model, "gate"), "gate")) <= len(node_sets(tree, "layer")) + 1


class Odd(nn.Module):
    """Parameters of unusual shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.scalar = nn.Parameter(torch.tensor(2.0))
        self.vector = nn.Parameter(torch.ones(3))
        self.empty = nn.Parameter(torch.ones(0))
        self.no_rows = nn.Parameter(torch.ones(0, 3))
        self.no_columns = nn.Parameter(torch.ones(2, 0))
        self.deep = nn.Parameter(torch.ones(2, 3, 2, 2))
        self.linear = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.linear.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.tied(self.linear(x)) * self.vector * self.scalar * self.deep.sum()
        return y.sum() + self.empty.sum() + self.no_rows.sum() + self.no_columns.sum()


BUILT_IN_SETS = [
    ("global",),
    ("unit",),
    ("parameter",),
    ("global", "group", "layer"),
    ("global", "unit"),
    ("global", "parameter"),
    ("global", "layer", "gate", "unit", "parameter"),
]


@pytest.mark.parametrize("levels", BUILT_IN_SETS)
@pytest.mark.parametrize("foreach", [None, False])
def test_unusual_shapes_train(levels: tuple[str, ...], foreach: bool | None) -> None:
    model = Odd()
    model.vector.requires_grad_(False)
    optimizer = multirate.MultiRate(model, 1e-3, levels=levels, foreach=foreach)
    for _ in range(4):
        optimizer.zero_grad()
        (model(torch.ones(2, 3)) - 1).square().backward()
        optimizer.step()
    assert int(optimizer.skipped_steps) == 0
    assert torch.equal(model.vector, torch.ones(3))
    for p in model.parameters():
        assert torch.isfinite(p).all()
    assert model.scalar != 2.0
    assert model.linear.weight is model.tied.weight
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_tied_weight_lies_in_the_layer_that_owns_it_first() -> None:
    model = Odd()
    nodes = members(tree_of(model, "layer"), "layer")
    assert nodes["linear.weight"].unique().tolist() == nodes["linear.bias"].unique().tolist()
    assert nodes["tied.bias"].unique().tolist() != nodes["linear.bias"].unique().tolist()


def test_parametrized_weights_belong_to_their_module() -> None:
    model = Root(a=nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), b=nn.Linear(4, 2))
    nodes = members(tree_of(model, "layer"), "layer")
    assert {int(v.flatten()[0]) for n, v in nodes.items() if n.startswith("a.")} == {int(nodes["a.bias"][0])}


def test_levels_of_the_user() -> None:
    model = Root(a=nn.Linear(2, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 1))
    half = Level("half", lambda name: None if name.startswith("c") else "body")
    tree = tree_of(model, "global", half, BLOCK, "unit")
    assert tree.levels == ("global", "half", "block", "unit")
    assert node_sets(tree, "half") == expected_sets(model, lambda name, at: name.startswith("c"))
    assert [node.label for node in tree.nodes["half"]] == ["body", "rest"]
    optimizer = multirate.Adam(model, levels=("global", half, "layer"))
    assert set(optimizer.rates()["half"]) == {"body", "rest"}


def test_a_level_per_param_group() -> None:
    a, b = nn.Linear(2, 3), nn.Linear(3, 2)
    groups = [{"params": [("a.weight", a.weight), ("b.weight", b.weight)]}, {"params": [("b.bias", b.bias)]}]
    optimizer = multirate.Adam(groups, levels=("global", "group"))
    assert set(optimizer.rates()["group"]) == {"0", "1"}
    optimizer.add_param_group({"params": [("a.bias", a.bias)]})
    assert set(optimizer.rates()["group"]) == {"0", "1", "2"}
    with pytest.raises(ValueError, match=r"'group'.*'layer'|'layer'.*'group'"):
        multirate.Adam(groups, levels=("group", "layer"))


def test_levels_that_do_not_nest_are_refused_by_name() -> None:
    model = Root(a=nn.Linear(2, 3), b=nn.Linear(3, 3))
    kind = Level("kind", lambda name: name.rpartition(".")[2])
    for levels in permutations(("global", kind, "layer")):
        with pytest.raises(ValueError, match="nest") as caught:
            tree_of(model, *levels)
        assert "'kind'" in str(caught.value)
        assert "'layer'" in str(caught.value)


def test_equal_sized_levels_that_cross_are_refused() -> None:
    model = Root(a=nn.Linear(2, 3), b=nn.Linear(3, 3))
    kind = Level("kind", lambda name: name.rpartition(".")[2])
    with pytest.raises(ValueError, match="nest"):
        tree_of(model, kind, BLOCK)


@pytest.mark.parametrize("name", ["", "global", "unit", "a.b", 3])
def test_bad_names_of_levels_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="levels"):
        Level(name, str)


def test_a_level_of_names_needs_names() -> None:
    with pytest.raises(ValueError, match="named_parameters"):
        multirate.Adam(nn.Linear(2, 2).parameters(), levels=("global", BLOCK))


def test_without_names_each_tensor_is_a_layer() -> None:
    optimizer = multirate.Adam(nn.Linear(2, 3).parameters(), levels=("global", "layer", "unit"))
    assert set(optimizer.rates()["layer"]) == {"tensor0", "tensor1"}
    assert sum(v.numel() for v in optimizer.rates()["unit"].values()) == 4


def rich_model() -> nn.Module:
    torch.manual_seed(0)
    return Root(
        conv=nn.Conv2d(4, 6, 2, groups=2),
        up=nn.ConvTranspose2d(4, 6, 2, groups=2),
        norm=nn.LayerNorm(4),
        lstm=nn.LSTM(2, 3, num_layers=2),
        gru=nn.GRU(2, 3),
        attention=nn.MultiheadAttention(4, 2),
        odd=Odd(),
    )


def brute_force(tree: Tree, level: str, values: Iterable[torch.Tensor]) -> dict[int, float]:
    """Sums by a loop over single elements."""
    sums = dict.fromkeys(range(tree.size[level]), 0.0)
    for (_, nodes), value in zip(members(tree, level).items(), values, strict=True):
        for at in product(*(range(n) for n in value.shape)):
            sums[int(nodes[at])] += float(value[at])
    return sums


ALL = ("global", BLOCK, "layer", "gate", "unit", "parameter")


def test_sums_over_nodes_are_those_of_a_loop() -> None:
    model = rich_model()
    tree = tree_of(model, *ALL)
    values = TensorList([torch.randn(i.shape, dtype=torch.float64) for i in tree.infos])
    for level in tree.levels:
        if level == ELEMENT:
            continue
        got = tree.pool(values, ELEMENT, level)
        assert isinstance(got, torch.Tensor)
        expected = brute_force(tree, level, values)
        torch.testing.assert_close(got, torch.tensor([expected[i] for i in range(len(expected))], dtype=torch.float64))
        for coarser in tree.levels[: tree.levels.index(level)]:
            torch.testing.assert_close(tree.pool(got, level, coarser), tree.pool(values, ELEMENT, coarser))
    ones = TensorList([torch.ones(i.shape, dtype=torch.float64) for i in tree.infos])
    counts = tree.to_cells(ones)
    torch.testing.assert_close(counts, tree.elements_of_cell)


def test_values_are_handed_down_to_where_sums_come_from() -> None:
    tree = tree_of(rich_model(), *ALL)
    for coarse in tree.levels[:-1]:
        values = torch.arange(tree.size[coarse], dtype=torch.float64)
        for fine in tree.levels[tree.levels.index(coarse) : -1]:
            lifted = tree.lift(values, coarse, fine)
            for a, b in zip(tree.lift(values, coarse, ELEMENT), tree.lift(lifted, fine, ELEMENT), strict=True):
                assert torch.equal(a.expand(b.shape), b)


@pytest.mark.parametrize("order", list(permutations(("global", "layer", "unit", "parameter"))))
def test_the_order_of_levels_does_not_matter(order: tuple[str, ...]) -> None:
    def run(levels: tuple[str, ...]) -> tuple[nn.Module, multirate.SGDCAMHD]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        weights = {"global": 0.4, "layer": 0.3, "unit": 0.2, "parameter": 0.1}
        optimizer = multirate.SGDCAMHD(model, 1e-2, levels=levels, weights=weights)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()
        return model, optimizer

    (model, optimizer), (other, reference) = run(order), run(("global", "layer", "unit", "parameter"))
    assert optimizer._tree.levels == ("global", "layer", "unit", "parameter")
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert optimizer.weights() == reference.weights()


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("with_elements", [False, True])
def test_agreement_is_the_sum_of_gradient_times_last_direction(foreach: bool | None, with_elements: bool) -> None:
    model = rich_model()
    levels = ("global", "layer", "gate", "unit") + (("parameter",) if with_elements else ())
    optimizer = multirate.MultiRate(
        model,
        1e-2,
        rule=multirate.rules.SGD(),
        levels=levels,
        adaptation=multirate.adaptation.CAMHD(hyper_lr=0.0, weight_lr=0.0),
        foreach=foreach,
    )
    gradients = []
    for _ in range(2):
        gradients.append([torch.randn_like(p) for p in model.parameters()])
        for p, g in zip(model.parameters(), gradients[-1], strict=True):
            p.grad = g.clone()
        optimizer.step()
    products = [a * b for a, b in zip(*gradients, strict=True)]
    for level in levels:
        if level == ELEMENT:
            continue
        expected = brute_force(optimizer._tree, level, products)
        got = optimizer._memory[f"agreement.{level}"]
        torch.testing.assert_close(got, torch.tensor([expected[i] for i in range(len(expected))]), rtol=1e-4, atol=1e-4)


def test_frozen_and_absent_parameters_take_no_part() -> None:
    model = Root(a=nn.Linear(2, 3), b=nn.Linear(3, 2))
    model.a.weight.requires_grad_(False)
    optimizer = multirate.SGDHD(model, 1e-2, levels=("layer",), hyper_lr=1e-3)
    gradients = []
    for _ in range(2):
        gradients.append(torch.randn(3))
        model.a.bias.grad = gradients[-1].clone()
        optimizer.step()
    expected = 1e-2 + 1e-3 * float((gradients[0] * gradients[1]).sum())
    assert float(optimizer.rates()["layer"]["a"]) == pytest.approx(expected, rel=1e-5)
    assert float(optimizer.rates()["layer"]["b"]) == pytest.approx(1e-2)
