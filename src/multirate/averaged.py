"""The shell of averaged iterates: gradients between iterate and average, rates of :class:`DistanceRates`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from multirate import kernels, restraint, training_point
from multirate.adaptation import DistanceRates, Transition
from multirate.ghost import awake
from multirate.kernels import ANCHOR, AVERAGE, ITERATE, Batch
from multirate.levels import ELEMENT, Level, Values
from multirate.measuring import indices, where
from multirate.memory import TENSOR, Slot, settle
from multirate.moving import Moved
from multirate.optimizer import MultiRate, Parameters
from multirate.rules import Rule

_RECENCY = 2
"""Power of the step count that an iterate weighs with in the average."""
_SCHEDULE_POWER = 0.125
"""How much of a schedule is passed on to the rate: the average has done most of what a decay is for."""
_FIRST_STEP = 3e-3
"""The first step, as a share of the norm of the parameters."""
_SMALLEST_SIZE = 1e-2
"""Root mean square that parameters are taken to have at least, for the first step of those that begin at 0."""
_LEAST_INTERPOLATION = 0.5
"""With less, the average is kept, since finding it again from the other two would lose digits."""


@dataclass
class Place:
    """Where the parameters of an optimizer are; an object of its own, so that ``torch.compile`` sees it change.

    Attributes:
        training: Whether a pass has asked for the point where gradients are taken.
        moved: Positions of the parameters that are there; all others hold the average.
        betas: The weight of the average in that point, for each group, as it was when they went there.
        depth: How many modules deep the present pass is.
        lent: Positions of the parameters that hold the average for an evaluation between a training pass and its step.
        released: Whether another optimizer has taken the parameters over.
        stepped: Positions of parameters that have made their step during a backward pass, and stay at the average.
    """

    training: bool = False
    moved: set[int] = field(default_factory=set)
    betas: list[float] = field(default_factory=list)
    depth: int = 0
    lent: set[int] | None = None
    released: bool = False
    stepped: set[int] = field(default_factory=set)


class Averaged(MultiRate):
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
        self.place = Place()
        self._rests_at_average = self._attached = False
        self._begun: list[bool] = []
        modules = list(training_point.modules_behind(params))
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
        self._attach(modules)

    # -- where the parameters are ------------------------------------------------------------------------------

    def _attach(self, modules: Sequence[torch.nn.Module]) -> None:
        """Hooks the modules that own the parameters, looking for them where they were not given."""
        wanted = {id(p) for p in self._parameters}
        given = training_point.with_parameters(modules, wanted)
        missing = wanted - {id(p) for module in given for p in module.parameters(recurse=False)}
        owners = training_point.owners_of(missing) if missing else []
        training_point.attach(self, [*given, *owners])
        self._attached = bool(given or owners)
        if self._attached:
            self._rests_at_average = True
        elif not self._rests_at_average:
            self.to_training_point()

    @torch.no_grad()
    def to_training_point(self) -> None:
        """Moves what is trained and has not made its step to the point where gradients are taken, if it is not there.

        Frozen parameters stay at their average, where they are evaluated too.
        """
        place = self.place
        if not place.training:
            self._begin()
        known = place.betas if place.moved else []
        place.betas = [*known, *(self.rule.interpolation(group) for group in self.param_groups[len(known) :])]
        self._complete()
        trained = {i for i, p in enumerate(self._parameters) if p.requires_grad and ITERATE in self.state[p]}
        self._move(trained - place.moved - place.stepped, average=False)
        place.training = True

    @torch.no_grad()
    def to_average(self) -> None:
        """Moves the parameters from the point where gradients are taken to the average, if that is where they rest."""
        if self.place.training and self._rests_at_average:
            self._move(self.place.moved, average=True)
            self.place.training = False

    @torch.no_grad()
    def lend(self) -> set[int]:
        """Has the parameters hold the average until it is given back; returns the positions of what has moved."""
        lent = set(self.place.moved)
        self._move(lent, average=True)
        return lent

    @torch.no_grad()
    def give_back(self, lent: set[int]) -> None:
        """Moves what :meth:`lend` has moved to where it was."""
        self._move(lent - self.place.moved, average=False)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Has the parameters hold the average inside a ``with`` block, also those that no module owns."""
        lent = self.lend()
        try:
            yield
        finally:
            self.give_back(lent)

    def let_go(self) -> None:
        """Moves parameters no more while ``backward`` goes on: another optimizer has taken them over."""
        if self._early is not None:
            self._early.detach()
            self._early = None

    @torch.no_grad()
    def average_of(self, parameter: Tensor) -> Tensor:
        """The average of one parameter, wherever it is at present; a tensor of its own."""
        state = self.state[parameter]
        own = parameter.detach().clone()
        if AVERAGE in state:
            return own.copy_(state[AVERAGE])
        there = any(parameter is self._parameters[i] for i in self.place.moved)
        if there:
            for group, beta in zip(self.param_groups, self.place.betas, strict=True):
                if any(parameter is p for p in group["params"]):
                    _move([(own, state)], beta, average=True)
        return own

    def _move(self, chosen: set[int], average: bool) -> None:
        """Moves the parameters at some positions to the average, or from it."""
        if not chosen:
            return
        place, index = self.place, 0
        with training_point.unversioned(self._parameters):
            for group, beta in zip(self.param_groups, place.betas, strict=True):
                moving = []
                for parameter in group["params"]:
                    if index in chosen:
                        moving.append((parameter, self.state[parameter]))
                    index += 1
                _move(moving, beta, average)
        place.moved = place.moved - chosen if average else place.moved | chosen

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

    def _empty_batch(self, group: dict[str, Any], parameter: Tensor, start: int, names: list[str]) -> Batch:
        batch = super()._empty_batch(group, parameter, start, names)
        self._place(batch)
        return batch

    def _batches(self, among: Collection[int] | None = None) -> list[Batch]:
        if self.place.training and len(self.place.moved) < len(self._parameters):
            self._join()
        return super()._batches(among)

    def _join(self) -> None:
        """Moves what has a gradient but was frozen in the pass to where the others are, for all are stepped alike."""
        place = self.place
        stepping = {i for i, p in enumerate(self._parameters) if p.grad is not None and ITERATE in self.state[p]}
        self._move(stepping - place.moved - place.stepped, average=False)

    def _place(self, batch: Batch) -> None:
        batch.at_training_point = self.place.training
        groups = self.param_groups
        beta = (
            self.place.betas[next(i for i, g in enumerate(groups) if g is batch.options)]
            if self.place.training
            else 1.0
        )
        batch.interpolation = beta

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its new nodes start afresh, nodes that exist keep their rates."""
        ready, modules = self._ready, list(training_point.modules_behind([param_group]))
        if ready:
            self.to_average()
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        # A group that starts frozen is later taken to have started like all others.
        group.setdefault("starting_lr", float(group["lr"]) or self._lr)
        if ready:
            self._attach(modules)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state; a state of ``torch.optim`` starts the rule warm and the iterates at the parameters."""
        self.to_average()
        kept = [{name: group[name] for name in ("betas", "momentum") if name in group} for group in self.param_groups]
        super().load_state_dict(state_dict)
        self.place.stepped = set()
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
        own = ("place", "_rests_at_average", "_attached", "_begun")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_begun" in state:
            self.place.stepped = set()
            self._attach([])

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

    def _no_step(self) -> None:
        self.to_average()

    @property
    def moves_first(self) -> bool:
        """Always: rates are those found at the end of the step before."""
        return True

    def _may_move_early(self, index: int) -> bool:
        """A parameter's first step is measured by the gradients of all that share its rate."""
        return self._begun[index]

    def _step(self, batches: list[Batch]) -> None:
        if not self._attached and self._rests_at_average:
            self._attach([])  # unpickled before its model was
        super()._step(batches)

    def _move_by_known_rates(self, batches: list[Batch], before: Sequence[Moved] = ()) -> Moved:
        self._begin()
        present, memory = self._present(batches), self._memory
        squares = self._gradient_squares(batches)
        finite = torch.isfinite(squares).all().to(memory.dtype)
        live = finite * awake(self.param_groups, memory.device, memory.dtype)
        schedule = self._count(live, present, before)
        moving = schedule.ne(0).to(memory.dtype) * live
        moving = moving if present is None else moving * present
        if not all(self._begun):
            self._note_sizes(live if present is None else live * present)
        self._set_out(squares, moving)
        counted = reached = None
        if not self.rule.normalised:
            root, gain = self.adaptation.root(memory), self.adaptation.gain
            counted, reached = restraint.restrain(memory, squares, root, gain, moving)
        rates = self.adaptation.combined(memory, self._reference_lr)
        table, elements = self._advance(batches, rates, schedule, moving, live, counted, reached)
        index = indices(batches)
        if self._rests_at_average:
            self.place.stepped = self.place.stepped | index
            self.place.moved = self.place.moved - index
        return Moved(table, elements, moving, finite, live, index)

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

    def _set_out(self, squares: Tensor, moving: Tensor) -> None:
        """The first rate of nodes that have not moved: a step of a small share of their norm, whatever ``lr`` is."""
        tree, memory = self._tree, self._memory
        movers = moving[tree.tensor_of_cell]
        steps = tree.elements_of_cell * movers
        if not self.rule.normalised:
            steps = steps * (squares / self._elements)[tree.tensor_of_cell]
        step, movers = tree.pool(torch.stack([steps, movers]), "cell", tree.levels[0])
        first = memory["size"] * _FIRST_STEP / step.sqrt()
        settle(memory["first_rate"], first, movers * (memory["squares"] == 0))

    def _note_sizes(self, present: Tensor) -> None:
        """Remembers how large what sets out is of nodes that have not moved, small parameters taken as larger.

        Args:
            present: Of every tensor 1, or 0 where it has no gradient: what is frozen or stands still has no say.
        """
        tree, memory, sizes = self._tree, self._memory, []
        for parameter, cells in zip(self._parameters, tree.cells, strict=True):
            real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            sizes.append(cells.reduce(real.to(memory.dtype).square()).to(memory.device))
        sets_out = present * self._waking()
        table = torch.stack([torch.cat(sizes), tree.elements_of_cell]) * sets_out[tree.tensor_of_cell]
        squares, count = tree.pool(table, "cell", tree.levels[0])
        squares = torch.maximum(squares, count * _SMALLEST_SIZE**2)
        settle(memory["size"], squares.sqrt(), count * (memory["squares"] == 0))

    def _waking(self) -> Tensor:
        """Of every tensor 1, or 0 where its ``lr`` is the number 0; a tensor would have to be waited for."""
        memory = self._memory
        wake = [isinstance(group["lr"], Tensor) or group["lr"] != 0 for group in self.param_groups]
        key = ("waking", *((wakes, len(group["params"])) for wakes, group in zip(wake, self.param_groups, strict=True)))
        if key not in self._plans:  # remembered, for the host would wait for the copy to a device
            values = [float(w) for w, group in zip(wake, self.param_groups, strict=True) for _ in group["params"]]
            self._plans[key] = torch.tensor(values, dtype=memory.dtype, device=memory.device)
        waking: Tensor = self._plans[key]
        return waking

    def _schedule(self) -> Tensor:
        """The eighth root of how a group's ``lr`` has changed; where groups started from one another counts in full."""
        starting = self._starting()
        return starting * (super()._schedule() / starting).pow(_SCHEDULE_POWER)

    def _starting(self) -> Tensor:
        """Of every tensor, the ``lr`` its group started with over the reference."""
        memory, reference = self._memory, self._reference_lr
        key = ("starting", reference, *((group["starting_lr"], len(group["params"])) for group in self.param_groups))
        if key not in self._plans:  # remembered, for the host would wait for the copy to a device
            values = [group["starting_lr"] / reference for group in self.param_groups for _ in group["params"]]
            self._plans[key] = torch.tensor(values, dtype=memory.dtype, device=memory.device)
        starting: Tensor = self._plans[key]
        return starting

    def _advance(
        self,
        batches: list[Batch],
        rates: Values,
        schedule: Tensor,
        moving: Tensor,
        live: Tensor,
        counted: Tensor | None,
        reached: Tensor | None,
    ) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """Moves what has a gradient, in one pass that also measures for the next step's rates.

        Args:
            batches: What has a gradient.
            rates: Combined rates.
            schedule: Factor of every tensor.
            moving: Of every tensor 1, or 0 where it stands still.
            live: 1, or 0 on a skipped step.
            counted: What every tensor's gradient counts for, see :mod:`multirate.restraint`.
            reached: What every tensor's step is multiplied by beside, without counting as shorter.
        """
        tree, memory = self._tree, self._memory
        # Steps that a schedule shortens are shorter time.
        passed = schedule / self._starting() * moving
        memory["progress"].add_(passed)
        weight = memory["progress"].pow(_RECENCY) * passed
        memory["average_weight"].add_(weight)
        shares = self._columns(weight / memory["average_weight"])
        schedule = schedule * live
        rates_of = self._rates_of(rates, schedule if reached is None else schedule * reached)
        coefficients = self._coefficients(schedule, scale=counted)
        self._seed(batches)
        found = [
            batch.kernel.advance(
                batch,
                rates_of(batch),
                coefficients(batch),
                live.to(*where(batch)),
                shares(batch),
                self._rests_at_average,
            )
            for batch in batches
        ]
        rows, elements = self._table(batches, found)
        # Steps count as they were made, or the root would follow down what shortens them.
        made, moved = (schedule * moving)[tree.tensor_of_cell] * self._share_of_root(rates), moving[tree.tensor_of_cell]
        weights = torch.stack([made, made.square(), moved, moved, made, moved, moved])
        found_and_counted = torch.cat([rows, tree.elements_of_cell.unsqueeze(0)])
        table = torch.where(weights != 0, found_and_counted * weights, torch.zeros_like(weights))
        return table, elements

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

    def _leave_training_point(self) -> None:
        """Parameters without a gradient go back to their average too."""
        if not self._rests_at_average:
            self.place.training = True
            self.place.betas = [self.rule.interpolation(group) for group in self.param_groups]
        else:
            self.to_average()
        self.place.stepped = set()


def _move(moving: Sequence[tuple[Tensor, dict[str, Any]]], beta: float, average: bool) -> None:
    """Moves parameters, given with their state, from the average to the point ``β x + (1 − β) z``, or back."""
    found_again, iterates = [], []
    for parameter, state in moving:
        if AVERAGE in state:
            parameter.copy_(state[AVERAGE] if average else torch.lerp(state[ITERATE], state[AVERAGE], beta))
        else:
            found_again.append(parameter)
            iterates.append(state[ITERATE])
    if found_again and average:
        torch._foreach_add_(found_again, iterates, alpha=beta - 1.0)
        torch._foreach_div_(found_again, beta)
    elif found_again:
        torch._foreach_lerp_(found_again, iterates, 1.0 - beta)
