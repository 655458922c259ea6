"""Where parameters of averaged iterates are: at the average, or at the point where gradients are taken."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from multirate import training_point
from multirate.kernels import AVERAGE, ITERATE, Batch
from multirate.optimizer import MultiRate, Parameters


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


class Placed(MultiRate):
    """An optimizer whose parameters hold their average but while gradients are taken beside it.

    Parameters that modules own rest at the average, and hooks of the modules move them; others rest at the point where
    gradients are taken.
    """

    def __init__(self, params: Parameters, lr: float | Tensor, **options: Any) -> None:
        self.place = Place()
        self._rests_at_average = self._attached = False
        modules = list(training_point.modules_behind(params))
        super().__init__(params, lr, **options)
        self._attach(modules)

    # -- what an average is made of -----------------------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> None:
        """Lets what has not moved yet begin at the parameters as they are now."""

    @abstractmethod
    def _complete(self) -> None:
        """Makes state that is missing, while the average is at hand."""

    # -- to and fro ---------------------------------------------------------------------------------------------

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

    # -- in a step ----------------------------------------------------------------------------------------------

    def _step(self, batches: list[Batch]) -> None:
        if not self._attached and self._rests_at_average:
            self._attach([])  # unpickled before its model was
        super()._step(batches)

    def _no_step(self) -> None:
        self.to_average()

    def _batches(self, among: Collection[int] | None = None) -> list[Batch]:
        if self.place.training and len(self.place.moved) < len(self._parameters):
            self._join()
        return super()._batches(among)

    def _join(self) -> None:
        """Moves what has a gradient but was frozen in the pass to where the others are, for all are stepped alike."""
        place = self.place
        stepping = {i for i, p in enumerate(self._parameters) if p.grad is not None and ITERATE in self.state[p]}
        self._move(stepping - place.moved - place.stepped, average=False)

    def _empty_batch(self, group: dict[str, Any], parameter: Tensor, start: int, names: list[str]) -> Batch:
        batch = super()._empty_batch(group, parameter, start, names)
        self._place(batch)
        return batch

    def _place(self, batch: Batch) -> None:
        batch.at_training_point = self.place.training
        groups = self.param_groups
        beta = (
            self.place.betas[next(i for i, g in enumerate(groups) if g is batch.options)]
            if self.place.training
            else 1.0
        )
        batch.interpolation = beta

    def _left_at_rest(self, index: set[int]) -> None:
        """Notes that parameters at some positions have made their step, which left them where they rest."""
        if self._rests_at_average:
            self.place.stepped = self.place.stepped | index
            self.place.moved = self.place.moved - index

    def _leave_training_point(self) -> None:
        """Parameters without a gradient go back to their average too."""
        if not self._rests_at_average:
            self.place.training = True
            self.place.betas = [self.rule.interpolation(group) for group in self.param_groups]
        else:
            self.to_average()
        self.place.stepped = set()

    # -- state --------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its new nodes start afresh, nodes that exist keep their rates."""
        ready, modules = self._ready, list(training_point.modules_behind([param_group]))
        if ready:
            self.to_average()
        super().add_param_group(param_group)
        if ready:
            self._attach(modules)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state; parameters are at their average before and after."""
        self.to_average()
        super().load_state_dict(state_dict)
        self.place.stepped = set()

    def __getstate__(self) -> dict[str, Any]:
        own = ("place", "_rests_at_average", "_attached")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "place" in state:
            self.place.stepped = set()
            self._attach([])


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
