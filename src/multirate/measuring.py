"""From gradients to sums over the nodes of every level, bottom up, before anything moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from multirate import kernels
from multirate.adaptation import Adaptation, Measurement
from multirate.kernels import Batch, Measured
from multirate.levels import ELEMENT, Tree, Values
from multirate.memory import Memory
from multirate.replay import Replays
from multirate.rules import Rule
from multirate.tensorlist import TensorList

if TYPE_CHECKING:
    from multirate.in_backward import EarlyWork


class Measuring:
    """What an optimizer measures of its gradients."""

    if TYPE_CHECKING:
        rule: Rule
        adaptation: Adaptation
        _parameters: list[Tensor]
        _tree: Tree
        _memory: Memory
        _early: EarlyWork | None
        _plans: dict[Any, Any]
        _replays: Replays
        _one: Tensor
        _zero_rows: list[Tensor]

        @property
        def _row_count(self) -> int: ...

        def _batches(self, among: Collection[int] | None = None) -> list[Batch]: ...

    _kind: Hashable | None = None
    """What the arithmetic on a few numbers depends on in the present step, where it may be replayed."""

    def _small(self, name: str, function: Callable[..., Any], *inputs: Tensor) -> Any:
        """Calls a function that works on a few numbers, or replays what it did in an earlier step of this kind."""
        if self._kind is None:
            return function(*inputs)
        return self._replays((name, len(inputs), self._kind), function, *inputs)

    def _coefficients(
        self, schedule: Tensor, ahead: float = 0.0, scale: Tensor | None = None
    ) -> Callable[[Batch], dict[str, kernels.Picked]]:
        """The rule's coefficients at the step the memory has counted, or some steps ahead: computed once a group.

        Args:
            schedule: Factor of every tensor.
            ahead: Steps ahead.
            scale: What to multiply the direction of every tensor by beside.
        """
        found: dict[tuple[int, torch.device, torch.dtype], dict[str, kernels.Numbers]] = {}

        def of(batch: Batch) -> dict[str, kernels.Picked]:
            device, dtype = where(batch)
            start, key = batch.start, (batch.start, device, dtype)
            if key not in found:
                group = slice(start, start + len(batch.options["params"]))
                scalars = {name: self._memory[name][group] for name in ("step", *self.rule.scalars)}
                scalars["step"] = (scalars["step"] + ahead).clamp(min=1.0)
                scalars["schedule"] = schedule[group]
                vectors = self.rule.coefficients(scalars, batch.options)
                if scale is not None:
                    vectors["scale"] = vectors.get("scale", 1.0) * scale[group]
                found[key] = {name: kernels.Numbers(vector.to(device, dtype)) for name, vector in vectors.items()}
            positions = [i - start for i in batch.index]
            return {name: numbers.of(positions) for name, numbers in found[key].items()}

        return of

    def _measure(
        self, batches: list[Batch], present: Tensor | None
    ) -> tuple[Callable[..., Measurement], Sequence[Tensor]]:
        """Passes over all elements; returns what makes a measurement of what was found, and what was found.

        A measurement is agreement (and norms) summed over the nodes of every level, bottom up.
        """
        memory = self._memory

        def factor() -> Tensor:
            found: Tensor = memory["factor"] if present is None else memory["factor"] * present
            return found

        def measurement(sums: Tensor, elements: dict[int, list[Tensor]] | Sequence[Values]) -> Measurement:
            live, made_with = torch.isfinite(sums).all().to(memory.dtype), factor()
            return self._pooled(self._weighted(sums, made_with), elements, made_with, live)

        formulas = self._formulas(batches, factor)
        if formulas is not None:
            memory.lent = formulas.learned
            previous = self._present_coefficients(batches)
            table, _ = self._table(batches, formulas.measure(previous))
            sums, _ = self._scaled(self._scales(batches, previous), table, {})
            return partial(measurement, elements=formulas.products), [sums]
        early = self._early
        if early is not None and early.table is not None:
            gathered = {i for b in batches for i in b.index if early.is_measured(i, b.options)}
            sums, elements = self._sums(self._batches(indices(batches) - gathered))
            assert early.table is not None
            return partial(measurement, elements=elements), [torch.where(self._cells_of(gathered), early.table, sums)]
        found = self._measured(batches)
        tables = [each.table for each in found if each.table is not None and not each.elements]
        if len(tables) < len(found):
            sums, elements = self._scaled_sums(batches, found)
            return partial(measurement, elements=elements), [sums]

        def of_tables(*tables: Tensor) -> Measurement:
            return measurement(*self._scaled_sums(batches, [Measured([], [], table) for table in tables]))

        return of_tables, tables

    def _sums(self, batches: list[Batch]) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """Agreement and norms of every cell, 0 where a batch has none, and of elements by tensor."""
        return self._scaled_sums(batches, self._measured(batches))

    def _measured(self, batches: list[Batch]) -> list[Measured]:
        previous = self._small("coefficients", lambda: self._present_coefficients(batches))
        return [batch.kernel.measure(batch, own) for batch, own in zip(batches, previous, strict=True)]

    def _scaled_sums(self, batches: list[Batch], found: list[Measured]) -> tuple[Tensor, dict[int, list[Tensor]]]:
        scales = self._scales(batches, self._present_coefficients(batches))
        return self._scaled(scales, *self._table(batches, found))

    def _present_coefficients(self, batches: list[Batch], ahead: float = 0.0) -> list[dict[str, kernels.Picked]]:
        """The rule's coefficients at the step that has been counted, or some steps ahead, for each batch."""
        of = self._coefficients(self._memory["factor"], ahead)
        return [of(batch) for batch in batches]

    def _formulas(self, batches: list[Batch], factor: Callable[[], Tensor]) -> kernels.Formulas | None:
        """What works out values of the parameter level in the pass that moves, where something can."""
        if ELEMENT not in self._tree.levels:
            return None
        return kernels.formulas(batches, self._tree, self._memory, factor()[self._tree.tensor_of_cell], self._plans)

    def _table(self, batches: list[Batch], found: list[Measured]) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """Sums of all cells, ``(1, 3 or 6, cells)``, 0 where nothing was measured; and elements by tensor."""
        memory, rows = self._memory, list(self._zero_rows)
        elements: dict[int, list[Tensor]] = {}
        tables = []
        for batch, measured in zip(batches, found, strict=True):
            if measured.table is not None:
                tables.append(measured.table.to(memory.device, memory.dtype))
            for i, row in zip(batch.index, measured.rows, strict=False):
                rows[i] = row.to(memory.device, memory.dtype)
            elements.update(zip(batch.index, measured.elements, strict=False))
        if len(tables) < len(found) or not found:
            tables.append(torch.cat(rows, dim=1))
        return sum(tables[1:], start=tables[0]), elements

    def _scales(self, batches: list[Batch], previous: Sequence[Mapping[str, kernels.Picked]]) -> dict[int, Tensor]:
        """The scale that rebuilding directions leaves out, of all tensors of a group by the position of its first."""
        return {
            batch.start: own["scale"].of_group
            for batch, own in zip(batches, previous, strict=True)
            if batch.reference_state is None and "scale" in own
        }

    def _scaled(
        self, scales: Mapping[int, Tensor], sums: Tensor, elements: dict[int, list[Tensor]]
    ) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """What was measured with rebuilt directions, times the scale that rebuilding leaves out."""
        memory, tree = self._memory, self._tree
        if not scales:
            return sums, elements
        scale = torch.ones_like(memory["step"])
        for start, values in scales.items():
            scale[start : start + len(values)] = values.to(memory.device, memory.dtype)
        of_cell = scale[tree.tensor_of_cell]
        powers = [of_cell, torch.ones_like(of_cell), of_cell * of_cell][: self._row_count]
        for i, found in elements.items():
            of_tensor = [scale[i], self._one, scale[i] * scale[i]][: self._row_count]
            elements[i] = [e * power.to(e.device) for e, power in zip(found, of_tensor, strict=True)]
        return sums * torch.stack(powers), elements

    def _weighted(self, sums: Tensor, factor: Tensor) -> Tensor:
        """Sums with the factor the displacement was made with, and counts of elements below them."""
        tree = self._tree
        factor_of_cell = factor[tree.tensor_of_cell]
        moved = (factor_of_cell != 0).to(self._memory.dtype)
        # Absent and motionless tensors count for nothing, whatever their rows hold.
        weighted = torch.where(
            moved > 0,
            torch.cat([sums[:1] * factor_of_cell, sums[1:]], dim=0),
            torch.zeros_like(sums),
        )
        return torch.cat([weighted, (tree.elements_of_cell * moved).unsqueeze(0)], dim=0)

    def _pooled(
        self, table: Tensor, elements: dict[int, list[Tensor]] | Sequence[Values], factor: Tensor, live: Tensor
    ) -> Measurement:
        tree, memory = self._tree, self._memory
        per_level: dict[str, Tensor] = {}
        finer = "cell"
        for level in reversed([name for name in tree.levels if name != ELEMENT]):
            pooled = tree.pool(table if finer == "cell" else per_level[finer], finer, level)
            assert isinstance(pooled, Tensor)
            per_level[level] = pooled
            finer = level
        columns: list[dict[str, Values]] = [
            {level: values[k] for level, values in per_level.items()} for k in range(table.shape[0])
        ]
        if ELEMENT in tree.levels and not isinstance(elements, dict):
            for column, values_of_elements in zip(columns, elements, strict=False):
                column[ELEMENT] = values_of_elements
        elif ELEMENT in tree.levels:
            assert isinstance(elements, dict)
            like = next(v for v in memory.values.values() if isinstance(v, TensorList))
            for k in range(min(self._row_count, 3)):
                tensors = []
                for i, template in enumerate(like):
                    value = elements[i][k].to(template.dtype) if i in elements else torch.zeros_like(template)
                    tensors.append(value * factor[i].to(value.device) if k == 0 else value)
                columns[k][ELEMENT] = TensorList(tensors)
        if ELEMENT in tree.levels:
            columns[-1][ELEMENT] = tree.of_tensors((factor != 0).to(memory.dtype))
        empty: dict[str, Values] = {}
        norms = self.adaptation.needs_norms
        return Measurement(
            sums=columns[0],
            counts=columns[-1],
            gradient_squares=columns[1] if norms else empty,
            direction_squares=columns[2] if norms else empty,
            live=live,
            **dict(zip(("distance_squares", "descents", "returns"), columns[3:-1], strict=False)),
        )

    def _present(self, batches: list[Batch]) -> Tensor | None:
        """1 for each tensor that has a gradient, else 0; ``None`` when all have one."""
        chosen = indices(batches)
        if len(chosen) == len(self._parameters):
            return None

        def laid_out() -> Tensor:
            mask = [float(i in chosen) for i in range(len(self._parameters))]
            return torch.tensor(mask, dtype=self._memory.dtype, device=self._memory.device)

        return kernels.once(self._plans, ("present", *sorted(chosen)), laid_out)

    def _cells_of(self, index: Collection[int]) -> Tensor:
        """Which cells belong to some tensors."""

        def laid_out() -> Tensor:
            mask = torch.zeros(len(self._parameters), dtype=torch.bool)
            mask[[*index]] = True
            return mask.to(self._memory.device)[self._tree.tensor_of_cell]

        return kernels.once(self._plans, ("cells of", *sorted(index)), laid_out)

    def _gradient_squares(self, batches: list[Batch]) -> Tensor:
        """``‖g‖²`` of every tensor; 0 without a gradient."""
        memory = self._memory

        def in_order(*found: Tensor) -> Tensor:
            squares = torch.cat([values.to(memory.device, memory.dtype) for values in found])
            order = tuple(i for batch in batches for i in batch.index)
            if order == tuple(range(len(self._parameters))):
                return squares
            places = kernels.once(self._plans, ("order", *order), lambda: torch.tensor(order, device=memory.device))
            return torch.zeros_like(memory["step"]).index_copy(0, places, squares)

        own = self._small("coefficients ahead", lambda: self._present_coefficients(batches, ahead=1.0))
        looked = [batch.kernel.look(batch, c) for batch, c in zip(batches, own, strict=True)]
        squares: Tensor = self._small("gradient squares", in_order, *(each.squares for each in looked))
        return squares


def indices(batches: Iterable[Batch]) -> set[int]:
    """Positions of all parameters of some batches."""
    return {i for batch in batches for i in batch.index}


def where(batch: Batch) -> tuple[torch.device, torch.dtype]:
    """Device and precision of a batch's arithmetic."""
    first = batch.parameters[0]
    return first.device, kernels.arithmetic_dtype(first.dtype)
