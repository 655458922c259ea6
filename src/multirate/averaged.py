"""The shell of averaged iterates: gradients between iterate and average, rates of :class:`DistanceRates`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from multirate import first_step, kernels, restraint
from multirate.adaptation import DistanceRates, Transition
from multirate.ghost import awake
from multirate.kernels import ANCHOR, AVERAGE, ITERATE, Batch, Measured
from multirate.levels import ELEMENT, Level, Values
from multirate.measuring import indices, where
from multirate.memory import TENSOR, Slot
from multirate.moving import Moved
from multirate.optimizer import Parameters
from multirate.places import Placed
from multirate.rules import Rule

_RECENCY = 2
"""Power of the step count that an iterate weighs with in the average."""
_SCHEDULE_POWER = 0.125
"""How much of a schedule is passed on to the rate: the average has done most of what a decay is for."""
_LEAST_INTERPOLATION = 0.5
"""With less, the average is kept, since finding it again from the other two would lose digits."""


@dataclass
class _Ready:
    """What is known before parameters move.

    Attributes:
        finite: 1, or 0 when a gradient is not.
        live: 1, or 0 when nothing is moved.
        moving: Of every tensor 1, or 0 where it stands still.
        weights: What the sums of every cell are multiplied by, ``(7, cells)``, counts of elements last.
        arguments: For each batch what its kernel takes: rates, coefficients, ``live`` and shares in the average.
    """

    finite: Tensor
    live: Tensor
    moving: Tensor
    weights: Tensor
    arguments: list[tuple[Any, ...]]


class Averaged(Placed):
    r"""Averaged iterates whose rates are learned, with nothing to tune.

    With the iterate ``z``, its average ``x`` and the point ``y`` where gradients are taken:

        ``y = β x + (1 − β) z``,   ``z ← z − η α* ⊙ (d + |d| ⊙ clip(λ y, ±½))``,  ``x ← x + w_t / Σ w · (z − x)``

    with the rule's direction ``d`` from the gradient at ``y``, weights ``w_t = t²`` and ``w_0 = 1``. Of a schedule's
    factor η is the eighth root, for the average has done most of what a decay is for, and w_t is ``η_t (Σ η)²``. Where
    groups start with another ``lr`` than the optimizer's, the ratio counts in full.

    Decoupled weight decay λ is in proportion to how far an element moves anyway, and at most half of that: where there
    is no noise it leaves a minimum where it is, nothing is out of reach, and what has no gradient does not decay.

    The rates α* are those of :class:`multirate.adaptation.DistanceRates`, one step late, so that a step is one pass.
    The first step moves the parameters by 0.3 % of their norm; from then on the rate finds itself.

    Parameters hold ``x``, which is what to evaluate and to save. A forward pass in training mode through a module that
    owns them moves them to ``y``, and :meth:`step` moves them back. Parameters that no module owns rest at ``y``;
    :meth:`averaged` lends their average.

    Args:
        params: The model, ``model.named_parameters()`` (best: names tell layers), or what ``torch.optim`` takes.
        lr: What the factor of a schedule is relative to, > 0; it has no say in how fast learning is.
        rule: Direction of the update, from :mod:`multirate.rules`; its ``interpolation`` is β.
        levels: Levels that share a rate, see :class:`multirate.MultiRate`.
        adaptation: How rates follow from distance and agreement.
        transition: Transition to a fixed rate, or its rate r.
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference.
        in_backward: Move each parameter while ``backward`` goes on, and free its gradient, see
            :mod:`multirate.in_backward`.
        state_dtype: ``torch.bfloat16`` keeps the rule's buffers in half the memory, see :class:`multirate.MultiRate`;
            iterate, beginning and average stay in full precision.

    Raises:
        ValueError: For an option out of range; the message names it, its value and the cure.

    Reference:
        The average: Defazio et al., The road less scheduled, arXiv 2405.15682, Eqs. 3 to 5.
    """

    adaptation: DistanceRates
    _schedule_options = ("lr", "starting_lr")

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor,
        *,
        rule: Rule,
        levels: Sequence[str | Level],
        adaptation: DistanceRates,
        transition: Transition | float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        in_backward: bool = False,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        self._begun: list[bool] = []
        super().__init__(
            params,
            lr,
            rule=rule,
            levels=levels,
            adaptation=adaptation,
            transition=transition,
            maximize=maximize,
            foreach=foreach,
            in_backward=in_backward,
            state_dtype=state_dtype,
        )

    # -- state -------------------------------------------------------------------------------------------------

    @property
    def _row_count(self) -> int:
        return 6

    def _slots(self) -> list[Slot]:
        own = [Slot("average_weight", TENSOR, 1.0), Slot("progress", TENSOR)]
        restrained = [] if self.rule.normalised else restraint.SLOTS
        return [*super()._slots(), *own, *restrained]

    def _elementwise(self, group: dict[str, Any]) -> dict[str, tuple[float, torch.dtype | None]]:
        wanted: dict[str, tuple[float, torch.dtype | None]] = {
            name: (start, None) for name, start in self.rule.buffers(group).items()
        }
        wanted[ITERATE] = wanted[ANCHOR] = (0.0, None)
        short = any(kernels.arithmetic_dtype(p.dtype) != p.dtype for p in group["params"])
        if short or self.rule.interpolation(group) < _LEAST_INTERPOLATION:
            wanted[AVERAGE] = (0.0, None)
        return wanted

    def _allocate(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        missing = [name for name in (ITERATE, ANCHOR, AVERAGE) if name not in state]
        average = parameter.detach() if ITERATE in missing else self.average_of(parameter)
        super()._allocate(parameter, group)
        for name in missing:
            if name in state:
                state[name].copy_(average)

    def _build(self) -> None:
        super()._build()
        if self._tree.levels[0] == ELEMENT:
            raise ValueError(
                "levels: 'parameter' alone has no node to measure a distance over; add 'global' or 'layer'"
            )
        self._begun += [False] * (len(self._parameters) - len(self._begun))
        counts = torch.zeros(len(self._parameters), dtype=self._memory.dtype, device=self._memory.device)
        self._elements = counts.index_add(0, self._tree.tensor_of_cell, self._tree.elements_of_cell).clamp(min=1.0)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its new nodes start afresh, nodes that exist keep their rates."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        # A group that starts frozen is later taken to have started like all others.
        group.setdefault("starting_lr", float(group["lr"]) or self._lr)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state; a state of ``torch.optim`` starts the rule warm and the iterates at the parameters."""
        kept = [{name: group[name] for name in ("betas", "momentum") if name in group} for group in self.param_groups]
        super().load_state_dict(state_dict)
        if not any(ITERATE in state for state in state_dict["state"].values()):
            for group, own in zip(self.param_groups, kept, strict=True):  # theirs are of a first moment
                group.update(
                    {name: (value[0], group[name][1]) if name == "betas" else value for name, value in own.items()}
                )
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        saved = [state_dict["state"].get(i, {}) for i in ids]
        self._drop_averages(saved)
        self._begun = [ITERATE in state and float(state["step"]) > 0 for state in saved]

    def _drop_averages(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Forgets averages kept apart that the loaded state has none of, or no use for: parameters hold them."""
        wanted = [AVERAGE in self._elementwise(group) for group in self.param_groups for _ in group["params"]]
        for parameter, state, wants in zip(self._parameters, saved, wanted, strict=True):
            if ITERATE in state and not (wants and AVERAGE in state):
                self.state[parameter].pop(AVERAGE, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_begun": self._begun}

    def _complete(self) -> None:
        """Makes what a changed interpolation needs, while the average is at hand."""
        for group in self.param_groups:
            names = [*self._elementwise(group)]
            for parameter in group["params"]:
                if parameter.requires_grad and any(name not in self.state[parameter] for name in names):
                    self._allocate(parameter, group)

    def _begin(self) -> None:
        """Lets what has not moved yet begin at the parameters as they are now, whatever was loaded into them."""
        begun = zip(self._parameters, self._begun, strict=True)
        fresh = [parameter for parameter, done in begun if not done and ITERATE in self.state[parameter]]
        if not fresh:
            return
        self._follow_fresh(fresh)
        for parameter in fresh:
            for name in (ITERATE, ANCHOR, AVERAGE):
                if name in self.state[parameter]:
                    self.state[parameter][name].copy_(parameter)

    def _follow_fresh(self, fresh: list[Tensor]) -> None:
        """Follows parameters that changed their device or type between construction and the first pass."""
        self._follow()
        for parameter in fresh:
            state = self.state[parameter]
            if state[ITERATE].dtype != kernels.arithmetic_dtype(parameter.dtype):
                for name in [name for name in state if name not in self._memory.slots]:
                    del state[name]
                self._allocate(
                    parameter, next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
                )

    # -- one step ----------------------------------------------------------------------------------------------

    @property
    def moves_first(self) -> bool:
        """Always: rates are those found at the end of the step before."""
        return True

    def _may_move_early(self, index: int) -> bool:
        """A parameter's first step is measured by the gradients of all that share its rate."""
        return self._begun[index]

    def _move_by_known_rates(self, batches: list[Batch], before: Sequence[Moved] = ()) -> Moved:
        self._begin()
        present, memory = self._present(batches), self._memory
        squares = self._gradient_squares(batches)
        alive = self._one * awake(self.param_groups, memory.device, memory.dtype)
        if not all(self._begun):
            sets_out = torch.isfinite(squares).all() * alive * self._waking()
            first_step.note_sizes(memory, self._parameters, sets_out if present is None else sets_out * present)

        def ready(squares: Tensor, schedule: Tensor, alive: Tensor) -> _Ready:
            return self._ready_to_advance(batches, squares, schedule, alive, present, before)

        r: _Ready = self._small("ready", ready, squares, self._factors(), alive)
        self._seed(batches)
        found = [
            batch.kernel.advance(batch, *own, self._rests_at_average)
            for batch, own in zip(batches, r.arguments, strict=True)
        ]
        table, elements = self._weighed(batches, found, r.weights)
        index = indices(batches)
        self._left_at_rest(index)
        return Moved(table, elements, r.moving, r.finite, r.live, index)

    def _learn(self, moved: list[Moved]) -> None:
        stepped: set[int] = set().union(*(m.index for m in moved))
        self._leave_training_point()
        super()._learn(moved)
        index = 0
        for group in self.param_groups:
            moves = isinstance(group["lr"], Tensor) or group["lr"] != 0
            for _ in group["params"]:
                self._begun[index] = self._begun[index] or (moves and index in stepped)
                index += 1

    def _schedule(self) -> Tensor:
        """The eighth root of how a group's ``lr`` has changed; where groups started from one another counts in full."""
        starting = self._starting()
        return starting * (super()._schedule() / starting).pow(_SCHEDULE_POWER)

    def _starting(self) -> Tensor:
        """Of every tensor, the ``lr`` its group started with over the reference."""
        reference = self._reference_lr
        return self._of_groups("starting", [group["starting_lr"] / reference for group in self.param_groups])

    def _waking(self) -> Tensor:
        """Of every tensor 1, or 0 where its ``lr`` is the number 0; a tensor would have to be waited for."""
        wake = [isinstance(group["lr"], Tensor) or group["lr"] != 0 for group in self.param_groups]
        return self._of_groups("waking", [*map(float, wake)])

    def _of_groups(self, name: str, values: list[float]) -> Tensor:
        """One number a tensor out of one a param group."""
        counts = [len(group["params"]) for group in self.param_groups]

        def laid_out() -> Tensor:
            numbers = [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
            return torch.tensor(numbers, dtype=self._memory.dtype, device=self._memory.device)

        return kernels.once(self._plans, (name, *values, *counts), laid_out)

    def _ready_to_advance(
        self,
        batches: list[Batch],
        squares: Tensor,
        schedule: Tensor,
        alive: Tensor,
        present: Tensor | None,
        before: Sequence[Moved],
    ) -> _Ready:
        """Works out all that moving takes.

        Args:
            batches: What has a gradient.
            squares: ``‖g‖²`` of every tensor.
            schedule: Factor of every tensor.
            alive: 0 in a step that has to change nothing, else 1.
            present: Of every tensor 1, or 0 where it has no gradient; ``None`` where all have one.
            before: What has been moved in the same step already.
        """
        tree, memory = self._tree, self._memory
        finite = torch.isfinite(squares).all().to(memory.dtype)
        live = finite * alive
        self._count(live, schedule, present, before)
        moving = schedule.ne(0).to(memory.dtype) * live
        moving = moving if present is None else moving * present
        first_step.set_out(memory, None if self.rule.normalised else squares / self._elements, moving)
        # What every tensor's gradient counts for, and what its step is multiplied by beside, without being shorter.
        counted = reached = None
        if not self.rule.normalised:
            root, gain = self.adaptation.root(memory), self.adaptation.gain
            counted, reached = restraint.restrain(memory, squares, root, gain, moving)
        rates = self.adaptation.combined(memory, self._reference_lr)
        # Steps that a schedule shortens are shorter time.
        passed = schedule / self._starting() * moving
        memory["progress"].add_(passed)
        weight = memory["progress"].pow(_RECENCY) * passed
        memory["average_weight"].add_(weight)
        shares = self._columns(weight / memory["average_weight"])
        schedule = schedule * live
        rates_of = self._rates_of(rates, schedule if reached is None else schedule * reached)
        coefficients = self._coefficients(schedule, scale=counted)
        arguments = [(rates_of(batch), coefficients(batch), live.to(*where(batch)), shares(batch)) for batch in batches]
        # Steps count as they were made, or the root would follow down what shortens them.
        made, moved = (schedule * moving)[tree.tensor_of_cell] * self._share_of_root(rates), moving[tree.tensor_of_cell]
        weights = torch.stack([made, made.square(), moved, moved, made, moved, moved])
        return _Ready(finite, live, moving, weights, arguments)

    def _weighed(
        self, batches: list[Batch], found: list[Measured], weights: Tensor
    ) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """What was found on the way, and counts of elements, as far as they count."""
        elements_of_cell = self._tree.elements_of_cell.unsqueeze(0)

        def weighed(rows: Tensor, weights: Tensor) -> Tensor:
            return torch.where(weights != 0, torch.cat([rows, elements_of_cell]) * weights, torch.zeros_like(weights))

        if any(each.table is None or each.elements for each in found):
            rows, elements = self._table(batches, found)
            return weighed(rows, weights), elements

        def table(weights: Tensor, *tables: Tensor) -> Tensor:
            return weighed(self._table(batches, [Measured([], [], each) for each in tables])[0], weights)

        return self._small("table", table, weights, *(each.table for each in found if each.table is not None)), {}

    def _share_of_root(self, rates: Values) -> Tensor:
        """What every cell is moved with over the rate of its node at the coarsest level; single elements count as 1."""
        tree, memory = self._tree, self._memory
        coarsest, finest = tree.levels[0], [level for level in tree.levels if level != ELEMENT][-1]
        if finest == coarsest and self.transition is None:
            return self._one
        if finest != tree.finest:
            rates = self.adaptation.level_rates(memory, finest, self._reference_lr)
        if self.transition is not None:
            rates = self.transition.mix(rates, memory["time"][0], self._reference_lr)
        own, root = tree.lift(rates, finest, "cell"), tree.lift(self.adaptation.root(memory), coarsest, "cell")
        assert isinstance(own, Tensor)
        assert isinstance(root, Tensor)
        return torch.where(root > 0, own / root, 1.0)
