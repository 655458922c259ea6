"""The tree of levels: membership, sums over nodes, and values handed down to finer levels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from multirate.levels.cells import Cells, cells_of
from multirate.levels.partition import BUILT_IN, Level, ParameterInfo
from multirate.tensorlist import Lazy, TensorList

ELEMENT = "parameter"
"""The level with one rate per element; its values are tensors shaped like the parameters."""

Values = Tensor | TensorList
"""One value a node: a vector for every level but ``parameter``, whose values are a list of tensors."""


@dataclass(frozen=True)
class Node:
    """Nodes of one level under one label: ``[start, stop)`` of the level's vector, a single rate if ``scalar``."""

    label: str
    start: int
    stop: int
    scalar: bool


class Tree:
    """Nested levels over the parameters of one optimizer.

    Args:
        levels: Names of built-in levels and :class:`Level` objects, in any order.
        infos: One description a parameter, in the optimizer's order.

    Attributes:
        levels: Names of the levels, coarse to fine.
        cells: For each parameter, its cells.
        finest: Name of the finest level.

    Raises:
        ValueError: For an unknown, repeated or missing level, and for two levels that do not nest.
    """

    def __init__(self, levels: Sequence[str | Level], infos: Sequence[ParameterInfo]) -> None:
        given = _checked(levels, infos)
        names = [level if isinstance(level, str) else level.name for level in given]
        self.infos = tuple(infos)
        self.cells = tuple(cells_of(i, units="unit" in names, gates="gate" in names) for i in infos)
        self.offsets = [0]
        for cells in self.cells:
            self.offsets.append(self.offsets[-1] + cells.count)
        owners: list[int] = [t for t, cells in enumerate(self.cells) for _ in range(cells.count)]
        self.tensor_of_cell = torch.tensor(owners, dtype=torch.long)
        self.elements_of_cell = torch.tensor([self.cells[t].elements for t in owners], dtype=torch.float64)
        self._node_of_cell: dict[str, Tensor] = {}
        self.nodes: dict[str, list[Node]] = {}
        self.size: dict[str, int] = {}
        self.spans: dict[str, list[Node]] = {}
        for level, name in zip(given, names, strict=True):
            if name != ELEMENT:
                self._index(name, level)
        self.levels = self._nested(names)
        self.finest = self.levels[-1]
        self._maps: dict[tuple[str, str], Tensor | None] = {}

    def _index(self, name: str, level: str | Level) -> None:
        """Numbers the nodes of one level and notes which cells belong to each."""
        starts: dict[Hashable, Node] = {}
        members: list[int] = []
        spans = []
        size = 0
        for info, cells in zip(self.infos, self.cells, strict=True):
            key, label, count, scalar = _membership(name, level, info, cells)
            if key not in starts:
                starts[key] = Node(label, size, size + count, scalar)
                size += count
            node = starts[key]
            repeat = cells.count // count if count else 0
            members += [node.start + c // repeat for c in range(cells.count)] if repeat else []
            spans.append(node)
        self._node_of_cell[name] = torch.tensor(members, dtype=torch.long)
        self.nodes[name] = list(starts.values())
        self.size[name] = size
        self.spans[name] = spans

    def _nested(self, names: list[str]) -> tuple[str, ...]:
        """Sorts the levels from coarse to fine, refusing two of which neither refines the other."""
        packed = sorted((n for n in names if n != ELEMENT), key=lambda n: self.size[n])
        for i, coarse in enumerate(packed):
            for fine in packed[i + 1 :]:
                parent = torch.full((self.size[fine],), -1, dtype=torch.long)
                parent[self._node_of_cell[fine]] = self._node_of_cell[coarse]
                if not torch.equal(parent[self._node_of_cell[fine]], self._node_of_cell[coarse]):
                    raise ValueError(
                        f"levels: {coarse!r} and {fine!r} do not nest: some node of {fine!r} lies in several nodes "
                        f"of {coarse!r}, or the reverse; drop one of them or redefine it so that one refines the other"
                    )
        return (*packed, ELEMENT) if ELEMENT in names else tuple(packed)

    def to(self, device: torch.device, dtype: torch.dtype) -> Tree:
        """Moves the index vectors to a device, once, and sets the precision of element counts."""
        self.tensor_of_cell = self.tensor_of_cell.to(device)
        self.elements_of_cell = self.elements_of_cell.to(device, dtype)
        self._node_of_cell = {name: index.to(device) for name, index in self._node_of_cell.items()}
        self._maps = {}
        return self

    def _map(self, fine: str, coarse: str) -> Tensor | None:
        """For each node of ``fine`` its node in ``coarse``; ``None`` when they are the same."""
        if fine == coarse:
            return None
        if (fine, coarse) not in self._maps:
            if fine == "cell":
                self._maps[fine, coarse] = self._node_of_cell[coarse]
            else:
                cells = self._node_of_cell[fine]
                parent = torch.zeros(self.size[fine], dtype=torch.long, device=cells.device)
                parent[cells] = self._node_of_cell[coarse]
                self._maps[fine, coarse] = parent
        return self._maps[fine, coarse]

    def warm(self) -> None:
        """Computes every map between levels, so that no step has to."""
        packed = [name for name in self.levels if name != ELEMENT]
        for coarse in packed:
            for fine in ("cell", *packed):
                if fine == "cell" or packed.index(fine) > packed.index(coarse):
                    self._map(fine, coarse)

    def finer(self, first: str, second: str) -> str:
        """The finer of two levels."""
        order = [*self.levels]
        return first if order.index(first) >= order.index(second) else second

    def to_cells(self, values: TensorList) -> Tensor:
        """Sums elementwise values over each cell: ``(cells,)``."""
        return values.over_cells(self.cells)

    def pool(self, values: Values, fine: str, coarse: str) -> Values:
        """Sums values of a level (or of ``"cell"``) over the nodes of a coarser one.

        Args:
            values: Values of ``fine``: ``(..., nodes)``, or a list for the parameter level.
            fine: Where the values are.
            coarse: Where they go.
        """
        if fine == coarse:
            return values
        if isinstance(values, TensorList):
            values, fine = self.to_cells(values), "cell"
        index = self._map(fine, coarse)
        assert index is not None
        sums = values.new_zeros(*values.shape[:-1], self.size[coarse])
        return sums.index_add(-1, index, values)

    def lift(self, values: Values, coarse: str, fine: str) -> Values:
        """Hands the values of a level's nodes down to every node of a finer one (or of ``"cell"``)."""
        if fine == coarse:
            return values
        assert isinstance(values, Tensor)
        if fine == ELEMENT:
            return self.spread(values[self._node_of_cell[coarse]])
        index = self._map(fine, coarse)
        assert index is not None
        return values[index]

    def spread(self, cell_values: Tensor) -> Spread:
        """One value a cell to one tensor a parameter, shaped to broadcast against it."""
        return Spread(cell_values, self)

    def of_tensors(self, values: Tensor) -> Spread:
        """One value a parameter, for its elements."""
        return Spread(values[self.tensor_of_cell], self)

    def broadcast(self, tensor: int, cell_values: Tensor) -> Tensor:
        """The values of one parameter's cells, shaped to broadcast against it."""
        start = self.offsets[tensor]
        if self.cells[tensor].whole:
            return cell_values[start]
        return self.cells[tensor].broadcast(cell_values[start : self.offsets[tensor + 1]])


class Spread(Lazy):
    """Values of the parameter level that are the same all over a cell.

    Args:
        cells: One value a cell.
        tree: What says where cells lie.
    """

    laziness: ClassVar[int] = 1

    def __init__(self, cells: Tensor, tree: Tree) -> None:
        super().__init__(len(tree.cells))
        self.cells, self._tree = cells, tree

    @property
    def tensors(self) -> list[Tensor]:
        """One tensor a parameter, shaped to broadcast against it."""
        return [self._tree.broadcast(t, self.cells) for t in range(len(self))]

    def __getitem__(self, index: int) -> Tensor:
        return self._tree.broadcast(index, self.cells)

    def operate(self, operation: str, first: TensorList, *operands: Any, **scalars: Any) -> TensorList:
        """The operation on one value a cell, if that is what all operands have."""
        everything = (first, *operands)
        if any(isinstance(o, TensorList) and not isinstance(o, Spread) for o in everything):
            return TensorList.operate(self, operation, first, *operands, **scalars)
        cells = [o.cells if isinstance(o, Spread) else o for o in everything]
        return Spread(getattr(torch, operation)(*cells, **scalars), self._tree)


def _checked(levels: Sequence[str | Level], infos: Sequence[ParameterInfo]) -> list[str | Level]:
    if isinstance(levels, (str, Level)) or not levels:
        raise ValueError(f"levels: expected a non-empty sequence such as ('global', 'layer'), got {levels!r}")
    given: list[str | Level] = []
    seen: set[str] = set()
    for level in levels:
        if isinstance(level, tuple) and len(level) == 2:
            level = Level(*level)
        name = level.name if isinstance(level, Level) else level
        if isinstance(level, str) and level not in BUILT_IN:
            raise ValueError(
                f"levels: unknown level {level!r}; use one of {', '.join(BUILT_IN)}, "
                "or multirate.Level(name, function of a parameter's name)"
            )
        if not isinstance(name, str):
            raise ValueError(f"levels: {level!r} is neither the name of a level nor a multirate.Level")
        if name in seen:
            raise ValueError(f"levels: {name!r} is given twice; name each level once")
        if isinstance(level, Level) and not all(info.named for info in infos):
            raise ValueError(
                f"levels: {name!r} is a function of parameter names, but some parameters have none; "
                "pass model.named_parameters() or the model itself"
            )
        seen.add(name)
        given.append(level)
    return given


def _membership(name: str, level: str | Level, info: ParameterInfo, cells: Cells) -> tuple[Hashable, str, int, bool]:
    """Key and label of the nodes a tensor belongs to in one level, how many they are, and if it is a single one."""
    if isinstance(level, Level):
        node = level.node(info.name)
        label = "rest" if node is None else str(node)
        return label, label, 1, True
    if name == "global":
        return "global", "global", 1, True
    if name == "group":
        return info.group, str(info.group), 1, True
    if name == "layer":
        return info.layer, info.layer, 1, True
    if name == "gate":
        if info.gates:
            return ("gates", info.gate_prefix), info.gate_prefix, len(info.gates), False
        return ("single", info.gate_prefix), info.gate_prefix, 1, True
    if cells.whole:
        return ("single", info.name), info.name, 1, True
    family = info.unit_family or ""
    part = family.replace("recurrent", "").replace("*", "").strip("_.")
    label = f"{info.layer}.{part}" if part else info.layer
    return (info.layer, family, cells.count), label, cells.count, False
