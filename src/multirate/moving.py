"""From rates to parameters: schedules, what a batch is moved with, and steps whose rates are known before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from multirate import kernels
from multirate.adaptation import Transition
from multirate.ghost import awake
from multirate.kernels import Batch, Measured
from multirate.levels import Values
from multirate.levels.tree import Spread
from multirate.measuring import Measuring, indices, where
from multirate.memory import settle
from multirate.tensorlist import Lazy


@dataclass
class Moved:
    """What came of moving some parameters with rates that were known before.

    Attributes:
        table: Sums of every cell, weighted, and counts below them; 0 for what did not move.
        elements: The same of single elements by tensor, where there is a rate per element.
        factor: What the displacement of every tensor was multiplied by beside its rate.
        finite: 1, or 0 when a gradient is not.
        live: 1, or 0 when nothing was moved.
        index: Positions of the parameters.
    """

    table: Tensor
    elements: dict[int, list[Tensor]]
    factor: Tensor
    finite: Tensor
    live: Tensor
    index: set[int]


_SUMMED = ("table", "factor", "live", "finite")
"""Of what was moved, what all learn from together."""


class Moving(Measuring):
    """How an optimizer moves its parameters."""

    _schedule_options: ClassVar[tuple[str, ...]] = ("lr",)
    """Options of a group that its schedule's factor depends on."""

    if TYPE_CHECKING:
        transition: Transition | None
        param_groups: list[dict[str, Any]]

        @property
        def _reference_lr(self) -> float: ...

    def _apply(self, batches: list[Batch], rates: Values, schedule: Tensor, live: Tensor) -> None:
        """Applies the combined rates, with the transition and the schedule on top."""

        def ready(schedule: Tensor, live: Tensor, *combined: Tensor) -> list[tuple[Any, ...]]:
            schedule = schedule * live
            rates_of = self._rates_of(combined[0] if combined else rates, schedule)
            coefficients, moved = self._coefficients(schedule), self._columns(schedule.ne(0))
            return [(rates_of(b), coefficients(b), live.to(*where(b)), moved(b)) for b in batches]

        arguments = self._small("ready", ready, schedule, live, *([rates] if isinstance(rates, Tensor) else []))
        self._seed(batches)
        for batch, own in zip(batches, arguments, strict=True):
            batch.kernel.apply(batch, *own)

    def _move_by_known_rates(self, batches: list[Batch], before: Sequence[Moved] = ()) -> Moved:
        """Moves parameters with the rates as they are, and measures on the way.

        Args:
            batches: The parameters.
            before: What has been moved in the same step already.
        """
        memory, present = self._memory, self._present(batches)

        def ready(squares: Tensor, factors: Tensor, alive: Tensor) -> tuple[Any, ...]:
            factor = memory["factor"].clone() if present is None else memory["factor"] * present
            previous = self._present_coefficients(batches)  # before the step is counted
            finite = torch.isfinite(squares).all().to(memory.dtype)
            live = finite * alive
            rates = self.adaptation.combined(memory, self._reference_lr)
            schedule = self._count(live, factors, present, before) * live
            rates_of = self._rates_of(rates, schedule)
            coefficients, moved = self._coefficients(schedule), self._columns(schedule.ne(0))
            arguments = [(rates_of(b), coefficients(b), live.to(*where(b)), moved(b)) for b in batches]
            return previous, arguments, factor * live, finite, live

        alive = self._one * awake(self.param_groups, memory.device, memory.dtype)
        squares = self._gradient_squares(batches)
        previous, arguments, factor, finite, live = self._small("known", ready, squares, self._factors(), alive)
        self._seed(batches)
        found = [
            kernels.measure_and_apply(batch, earlier, *own)
            for batch, earlier, own in zip(batches, previous, arguments, strict=True)
        ]
        scales, index = self._scales(batches, previous), indices(batches)
        tables = [each.table for each in found if each.table is not None and not each.elements]
        if len(tables) < len(found):
            sums, elements = self._scaled(scales, *self._table(batches, found))
            return Moved(self._weighted(sums, factor), elements, factor, finite, live, index)

        def table(factor: Tensor, *given: Tensor) -> Tensor:
            own, by_group = given[: len(tables)], dict(zip(scales, given[len(tables) :], strict=True))
            sums, _ = self._table(batches, [Measured([], [], each) for each in own])
            return self._weighted(self._scaled(by_group, sums, {})[0], factor)

        weighted = self._small("table", table, factor, *tables, *scales.values())
        return Moved(weighted, {}, factor, finite, live, index)

    def _learn(self, moved: list[Moved]) -> None:
        """Moves rates by what was measured while parameters moved."""
        elements = {i: values for m in moved for i, values in m.elements.items()}

        def learn(*found: Tensor) -> None:
            tables, factors, lives, finites = (found[k :: len(_SUMMED)] for k in range(len(_SUMMED)))
            table, factor, live = sum(tables[1:], tables[0]), sum(factors[1:], factors[0]), torch.stack(lives).amax()
            self.adaptation.learn(self._memory, self._pooled(table, elements, factor, live), self._reference_lr)
            self._memory["skipped"].add_(1.0 - torch.stack(finites).amin())

        self._small("learn", learn, *(getattr(m, name) for m in moved for name in _SUMMED))

    def _count(self, live: Tensor, factor: Tensor, present: Tensor | None, before: Sequence[Moved] = ()) -> Tensor:
        """Counts the step for the tensors that take it, notes and returns the schedule's factor of every tensor."""
        memory = self._memory
        taken = live.expand(len(self._parameters)) if present is None else live * present
        memory["step"].add_(taken)
        memory["time"].add_(live if not before else live * (1.0 - torch.stack([m.live for m in before]).amax()))
        scalars = {name: memory[name] for name in ("step", *self.rule.scalars)}
        start = 0
        for group in self.param_groups:
            stop = start + len(group["params"])
            part = {name: value[start:stop] for name, value in scalars.items()}
            self.rule.advance_scalars(part, taken[start:stop], group)
            for name in self.rule.scalars:
                memory[name][start:stop].copy_(part[name])
            start = stop
        settle(memory["factor"], factor if self.transition is None else factor * self._share(), taken)
        return factor

    def _factors(self) -> Tensor:
        """What multiplies each tensor's direction beside its rate: the schedule, kept while no ``lr`` changes."""
        numbers = [group[name] for group in self.param_groups for name in self._schedule_options]
        # A graph of a GPU would go on reading what is kept after another has taken its place.
        on_device = self._memory.device.type != "cpu"
        if on_device or torch.compiler.is_compiling() or any(isinstance(number, Tensor) for number in numbers):
            return self._schedule()
        given = (self._reference_lr, *numbers)
        known: tuple[object, Tensor] = self._plans.get("schedule", (None, self._one))
        if known[0] != given:
            known = self._plans["schedule"] = given, self._schedule()
        return known[1]

    def _schedule(self) -> Tensor:
        """``η_t``: the present ``lr`` of each tensor's group over the reference."""
        memory = self._memory
        factor = torch.empty_like(memory["factor"])
        start = 0
        for group in self.param_groups:
            stop = start + len(group["params"])
            lr = group["lr"]
            if isinstance(lr, Tensor):
                relative = lr.to(memory.device, memory.dtype).div(self._reference_lr)
                factor[start:stop].copy_(relative.expand(stop - start))
            else:
                factor[start:stop].fill_(lr / self._reference_lr)
            start = stop
        return factor

    def _share(self) -> Tensor:
        assert self.transition is not None
        return self.transition.share(self._memory["time"][0])

    def _seed(self, batches: list[Batch]) -> None:
        """Gives batches that keep their state short what they round with in this step, which has been counted."""
        found: dict[torch.device, kernels.Numbers] = {}
        for batch in batches:
            if batch.rounds:
                device = batch.parameters[0].device
                if device not in found:
                    found[device] = kernels.Numbers(kernels.rounding.seeds(self._memory["step"].to(device)))
                batch.seeds = found[device].of(batch.index)

    def _columns(self, values: Tensor) -> Callable[[Batch], Sequence[Tensor]]:
        """One number a tensor, handed to batches in their device and precision."""
        found: dict[tuple[torch.device, torch.dtype], kernels.Numbers] = {}

        def of(batch: Batch) -> Sequence[Tensor]:
            key = where(batch)
            if key not in found:
                found[key] = kernels.Numbers(values.to(*key))
            return found[key].of(batch.index)

        return of

    def _rates_of(self, rates: Values, schedule: Tensor) -> Callable[[Batch], Any]:
        """What a batch's tensors are moved with: the combined rates, with the transition and the schedule on top."""
        if self.transition is not None:
            rates = self.transition.mix(rates, self._memory["time"][0], self._reference_lr)
        tree = self._tree
        if isinstance(rates, Lazy) and not isinstance(rates, Spread):
            worked_out_later = rates * tree.of_tensors(schedule)
            return lambda batch: worked_out_later
        cells = (
            tree.lift(rates, tree.finest, "cell") * schedule[tree.tensor_of_cell] if isinstance(rates, Tensor) else None
        )

        def of(batch: Batch) -> Sequence[Tensor]:
            device, dtype = where(batch)
            if isinstance(cells, Tensor):
                return kernels.CellRates(cells.to(device, dtype), tree, batch.index)
            return [(rates[i] * schedule[i].to(device)).to(device, dtype) for i in batch.index]

        return of
