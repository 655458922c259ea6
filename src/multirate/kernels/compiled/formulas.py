"""Rates of single elements as formulas, worked out in the pass that moves the parameters.

An adaptation at the parameter level is arithmetic on lists of tensors as large as the model, a pass over memory for
every operation. Here its operations are only written down. What is summed over cells is gathered while the gradients
are measured, and all the rest happens to an element while it is at hand to be moved.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from math import inf, isinf
from typing import Any, ClassVar

import torch
from torch import Tensor

from multirate.kernels.batch import Batch, Measured
from multirate.kernels.compiled import programs
from multirate.kernels.compiled.making import Kernel, made, of_all, on_device
from multirate.kernels.compiled.programs import COEFFICIENT, GRADIENT, LIVE, MOVED, PARAMETER, PREVIOUS, Program
from multirate.kernels.compiled.symbols import Kind, Node, Recorder, ordered
from multirate.levels import Tree
from multirate.levels.tree import Spread
from multirate.memory import Memory
from multirate.tensorlist import Lazy, TensorList

_RECORDER = Recorder()
"""One for all, so that optimizers that are alike share what is compiled."""
_FACTOR = "factor"
_WANTED = "sums of formulas"
"""What the plans of an optimizer call the sums that its adaptation asked for in the last step."""

_LATER = ("cells ", "number ", "list ")
"""How names begin of what is not known yet when gradients are measured."""

_traced: dict[tuple[Any, ...], programs.Products] = {}
_known: dict[tuple[Any, ...], Kernel] = {}

Nodes = tuple[Node, ...]
"""A value in each batch of a pass."""


class Formula(Lazy):
    """Values of the parameter level that are still to be worked out.

    Args:
        work: The pass that works them out.
        nodes: What they are, in each of its batches.
    """

    laziness: ClassVar[int] = 2

    def __init__(self, work: Pass, nodes: Nodes) -> None:
        super().__init__(len(work.tree.cells))
        self.work, self.nodes = work, nodes

    @property
    def tensors(self) -> list[Tensor]:
        """The values, by a pass of their own; 0 where there is no gradient."""
        return self.work.values(self.nodes)

    def over_cells(self, cells: Sequence[Any]) -> Tensor:
        """Sums over the cells of every tensor, ``(cells,)``."""
        return self.work.sum(self.nodes)

    def operate(self, operation: str, first: TensorList, *operands: Any, **scalars: Any) -> TensorList:
        """Writes an operation down."""
        assert not scalars
        nodes = [self.work.nodes_of(operand) for operand in (first, *operands)]
        if operation == "reciprocal":
            operation, nodes = "div", [self.work.nodes_of(1.0), *nodes]
        if operation == "clamp":
            low, high = operands
            raised = self.work.combined("maximum", *nodes[:2]) if low > -inf else nodes[0]
            return Formula(self.work, self.work.combined("minimum", raised, nodes[2]) if high < inf else raised)
        return Formula(self.work, self.work.combined(operation, *nodes))

    def end(self) -> None:
        """Ends the pass."""
        self.work.end()

    def settle(self, new: Any, live: Any) -> None:
        """Has the pass store new values in the place of these, where they are finite and the step is live."""
        work = self.work
        settled, moving, old = work.nodes_of(new), work.nodes_of(live), self.nodes
        taken = work.combined("where", work.combined("finite", settled), settled, old)
        self.nodes = work.combined("where", work.combined("greater", moving, work.nodes_of(0.0)), taken, old)


class Pass:
    """The formulas of one step.

    Args:
        batches: The tensors of the step.
        tree: Levels and their nodes.
        memory: What the optimizer remembers.
        factor: What the displacements of the last step were multiplied by beside their rates, for every cell.
        plans: What is remembered from step to step.
    """

    def __init__(
        self, batches: list[Batch], tree: Tree, memory: Memory, factor: Tensor, plans: MutableMapping[Any, Any]
    ) -> None:
        self.tree = tree
        self._batches, self._memory, self._plans = batches, memory, plans
        self._cells = {_FACTOR: factor}
        self._numbers: dict[str, float] = {}
        self._lists: dict[str, TensorList] = {}
        self._sums: dict[Nodes, Tensor] = {}
        self._previous: list[Mapping[str, Sequence[Tensor]]] = []
        self._asked: list[Nodes] = []
        self._alike = (_WANTED, *(programs.options_of(batch).signature for batch in batches))
        self.products: list[Formula] = []
        """Of every element what was measured: agreement, and squared norms when asked for."""
        self.learned = {
            key: Formula(self, self._everywhere(f"memory {key}", Kind.ELEMENT))
            for key, values in memory.values.items()
            if isinstance(values, TensorList)
        }
        """The values of the memory's parameter level."""

    def end(self) -> None:
        """Lets go of everything, so that nothing of a step is held."""
        self.learned, self.products = {}, []
        for kept in (self._cells, self._lists, self._sums):
            kept.clear()

    # -- writing down ------------------------------------------------------------------------------------------

    def _everywhere(self, name: str, kind: Kind) -> Nodes:
        return (_RECORDER.input(name, kind).node,) * len(self._batches)

    def combined(self, operation: str, *arguments: Nodes) -> Nodes:
        """An operation in every batch."""
        return tuple(_RECORDER.node(operation, *nodes) for nodes in zip(*arguments, strict=True))

    def nodes_of(self, value: Any) -> Nodes:
        """What stands for an operand: a formula, values of cells, one number, or a list of tensors."""
        if isinstance(value, Formula):
            return value.nodes
        if isinstance(value, (int, float)):
            if value in (0.0, 1.0) or isinf(value):
                return (_RECORDER.node("constant", float(value)),) * len(self._batches)
            return self._given(self._numbers, "number", float(value), Kind.CALL)
        if isinstance(value, Tensor):
            # A copy, for what is remembered may have moved on when the pass comes to it.
            value = Spread(value.clone().expand(self.tree.offsets[-1]), self.tree)
        if isinstance(value, Spread):
            return self._given(self._cells, "cells", value.cells, Kind.CELL)
        return self._given(self._lists, "list", value, Kind.ELEMENT)

    def _given(self, place: dict[str, Any], kind: str, value: Any, of: Kind) -> Nodes:
        name = f"{kind} {len(place)}"
        place[name] = value
        return self._everywhere(name, of)

    # -- working out -------------------------------------------------------------------------------------------

    def measure(self, previous: Sequence[Mapping[str, Sequence[Tensor]]]) -> list[Measured]:
        """Measures all batches, with the sums that the adaptation asked for in the last step."""
        self._previous = [*previous]
        traced = [self._trace(batch, coefficients) for batch, coefficients in zip(self._batches, previous, strict=True)]
        wanted: list[Nodes] = self._plans.get(self._alike, [])
        found = []
        for k, products in enumerate(traced):
            program = Program({}, (*products.sums, *(nodes[k] for nodes in wanted)), ())
            table = self._run(k, "measure", program)
            found.append(Measured([], [], table[: len(products.sums)]))
            for nodes, row in zip(wanted, table[len(products.sums) :], strict=True):
                self._sums[nodes] = self._sums[nodes] + row if nodes in self._sums else row
        factor = self._everywhere(_FACTOR, Kind.CELL)
        for j in range(len(traced[0].elements)):
            nodes = tuple(products.elements[j] for products in traced)
            self.products.append(Formula(self, self.combined("mul", nodes, factor) if j == 0 else nodes))
        return found

    def _trace(self, batch: Batch, previous: Mapping[str, Sequence[Tensor]]) -> programs.Products:
        key = programs.options_of(batch).signature
        if key not in _traced:
            _traced[key] = programs.products(batch, previous, _RECORDER)
        return _traced[key]

    def apply(
        self,
        batch: Batch,
        rates: Formula,
        c: Mapping[str, Sequence[Tensor]],
        live: Tensor,
        moved: Sequence[Tensor],
    ) -> None:
        """Moves the parameters of a batch, and the learned values of their elements."""
        k = next(k for k, own in enumerate(self._batches) if own is batch)
        stores = {key: formula.nodes[k] for key, formula in self.learned.items()}
        device = on_device(batch)
        key = (device, "apply", programs.options_of(batch).signature, rates.nodes[k], *stores.items())
        if key not in _known:
            program = programs.apply(batch, c, live=device, recorder=_RECORDER, rate=rates.nodes[k])
            changed = {f"memory {name}": node for name, node in stores.items() if node.operation != "input"}
            program = Program({**program.stores, **changed}, (), ())
            _known[key] = made(batch, program)
        self._call(
            k,
            _known[key],
            {f"{COEFFICIENT}{name}": values for name, values in c.items()} | {MOVED: moved, LIVE: of_all(batch, live)},
        )

    def sum(self, nodes: Nodes) -> Tensor:
        """Sums of a formula over cells; what is asked for in one step is gathered with the measurement of the next."""
        if not any(name.startswith(_LATER) for name in _inputs(nodes)):
            self._asked.append(nodes)
            self._plans[self._alike] = self._asked
        if nodes not in self._sums:
            rows = [self._run(k, "sum", Program({}, (node,), ()))[0] for k, node in enumerate(nodes)]
            self._sums[nodes] = sum(rows[1:], start=rows[0])
        return self._sums[nodes].to(self._memory.dtype)

    def values(self, nodes: Nodes) -> list[Tensor]:
        """The elements of a formula."""
        like = next(values for values in self._memory.values.values() if isinstance(values, TensorList))
        found = [torch.zeros_like(tensor) for tensor in like]
        for k, (batch, node) in enumerate(zip(self._batches, nodes, strict=True)):
            self._run(k, "values", Program({}, (), (node,)), {"element0": [found[i] for i in batch.index]})
        return found

    def _run(
        self, k: int, task: str, program: Program, elements: Mapping[str, Sequence[Tensor]] | None = None
    ) -> Tensor:
        batch = self._batches[k]
        key = (on_device(batch), task, programs.options_of(batch).signature, program.sums, program.elements)
        if key not in _known:
            _known[key] = made(batch, program)
        return self._call(k, _known[key], {}, elements or {})

    def _call(
        self,
        k: int,
        kernel: Kernel,
        columns: Mapping[str, Sequence[Tensor]],
        elements: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> Tensor:
        batch = self._batches[k]
        learned = {
            f"memory {key}": [values[i] for i in batch.index]
            for key, values in self._memory.values.items()
            if isinstance(values, TensorList)
        }
        lists = {name: [values[i] for i in batch.index] for name, values in self._lists.items()}
        own = {PARAMETER: batch.parameters, GRADIENT: batch.gradients, **batch.state}
        return kernel(
            batch,
            {**own, **learned, **lists, **(elements or {})},
            {**{f"{PREVIOUS}{name}": values for name, values in self._previous[k].items()}, **columns},
            {**programs.options_of(batch).numbers, **self._numbers},
            self._cells,
            backwards=bool(columns),
        )


def _inputs(nodes: Nodes) -> set[str]:
    """Names of all inputs that values are made of."""
    return {node.arguments[0] for node in ordered(nodes) if node.operation == "input"}
