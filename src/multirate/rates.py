"""Read-only views of what was learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from multirate.levels import ELEMENT, Values
from multirate.tensorlist import TensorList

if TYPE_CHECKING:
    from multirate.adaptation import Adaptation, Transition
    from multirate.levels import Tree
    from multirate.memory import Memory


class RatesView:
    """What an optimizer with learned rates shows of them; all tensors are detached copies."""

    if TYPE_CHECKING:
        adaptation: Adaptation
        transition: Transition | None
        param_groups: list[dict[str, Any]]
        _tree: Tree
        _memory: Memory

        @property
        def _reference_lr(self) -> float: ...

        def _schedule(self) -> Tensor: ...

    def rates(self) -> dict[str, Any]:
        """Learned rates of every level, in absolute units, the present schedule included.

        Returns:
            ``{"global": 0-d tensor, "layer": {name: 0-d tensor}, "unit": {layer: (units,) tensor},
            "gate": {layer: (gates,) tensor}, "parameter": {name: tensor shaped like it}}``, only the levels in use.
            Rates
            of a product of levels (log-rates) are the product down to that level. A node whose parameters have
            different ``lr`` shows their mean, weighted by elements.
        """
        rates = {}
        schedule = self._schedule()
        for level in self._tree.levels:
            values = self.adaptation.level_rates(self._memory, level, self._reference_lr)
            if isinstance(values, TensorList):
                rates[level] = self._by_name(
                    values * TensorList([s.to(v.device) for s, v in zip(schedule.unbind(), values, strict=True)]),
                    level,
                )
            else:
                rates[level] = self._by_name(values * self._mean_schedule(schedule, level), level)
        return rates

    def weights(self) -> dict[str, Any]:
        """Combination weights by level: 0-d tensors, or by layer when every layer has its own; ``{}`` without any."""
        shown: dict[str, Any] = {}
        for level, values in self.adaptation.weights(self._memory).items():
            where = self._memory.slots[f"weight.{level}"].level
            shown[level] = self._by_name(values, where) if where in self._tree.levels else values[0].clone()
        return shown

    def agreement(self) -> dict[str, Any]:
        """Last agreement (the hypergradient, negated) of every level but ``parameter``, shaped like :meth:`rates`.

        With :class:`~multirate.adaptation.DistanceRates` that of the coarsest level is its ``h``, within ±0.1, and that
        of finer ones the cosine ``c``, within ±1.
        """
        levels = [level for level in self._tree.levels if level != ELEMENT]
        return {level: self._by_name(self._memory[f"agreement.{level}"], level) for level in levels}

    def applied_rates(self) -> dict[str, Tensor]:
        """The combined rate of each parameter by name, mixed from all levels, transition and schedule included.

        Returns:
            Tensors that broadcast against the parameters.
        """
        tree, memory = self._tree, self._memory
        rates = self.adaptation.combined(memory, self._reference_lr)
        if self.transition is not None:
            rates = self.transition.mix(rates, memory["time"][0], self._reference_lr)
        schedule = self._schedule()
        spread = tree.lift(rates, tree.finest, ELEMENT)
        shown = {}
        for info, rate, factor in zip(tree.infos, spread, schedule.unbind(), strict=True):
            value = rate * factor.to(rate.device)
            shown[info.name] = value[..., 0] if info.is_complex and value.ndim else value
        return shown

    @property
    def skipped_steps(self) -> Tensor:
        """Number of steps skipped for a non-finite gradient (0-d tensor, so that reading it is yours to time)."""
        count: Tensor = self._memory["skipped"][0].to(torch.long)
        return count

    def _mean_schedule(self, schedule: Tensor, level: str) -> Tensor:
        tree = self._tree
        elements = tree.elements_of_cell
        table = torch.stack([elements * schedule[tree.tensor_of_cell], elements])
        total = tree.pool(table, "cell", level)
        assert isinstance(total, Tensor)
        return torch.where(total[1] > 0, total[0] / total[1].clamp(min=1.0), schedule[0])

    def _by_name(self, values: Values, level: str) -> Any:
        """Values of a level as people read them."""
        if isinstance(values, TensorList):
            pairs = zip(self._tree.infos, values, strict=True)
            return {i.name: (v[..., 0] if i.is_complex else v).clone() for i, v in pairs}
        if level == "global":
            return values[0].clone()
        return {
            node.label: values[node.start].clone() if node.scalar else values[node.start : node.stop].clone()
            for node in self._tree.nodes[level]
        }
