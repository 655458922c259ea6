"""The shell that runs a rule, levels and an adaptation as a ``torch.optim.Optimizer``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from multirate import checkpoint, kernels
from multirate.adaptation import Adaptation, LogRates, Measurement, Transition
from multirate.ghost import awake
from multirate.kernels import ANCHOR, AVERAGE, DIRECTION, ITERATE, TRACE, Batch, Measured
from multirate.levels import ELEMENT, Level, Tree, Values, describe_parameters, level_name, module_kinds
from multirate.memory import MODEL, TENSOR, Memory, Slot, settle
from multirate.rates import RatesView
from multirate.rules import Adam, Rule
from multirate.tensorlist import TensorList

Parameters = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]

_PLACES = (ITERATE, ANCHOR, AVERAGE)
"""State that is never kept short: where parameters are and began, whose small steps and differences are what counts."""
_BATCH_ELEMENTS = 1 << 15
"""Small tensors are processed together up to this many elements; on a CPU larger batches only leave the cache."""
_BATCH_ELEMENTS_ON_DEVICE = 1 << 26


class MultiRate(RatesView, torch.optim.Optimizer):
    r"""Any rule, at any levels, under any adaptation.

    At step ``t`` everything is measured first (``Hᵢ``, the sum of ``g_t ⊙ d_{t-1}`` over each node of each level), then
    rates move, then ``θ ← θ − η_t α* ⊙ d_t`` is applied. The factor ``η_t`` is the group's ``lr`` (as the user or a
    scheduler
    left it) over the ``lr`` the optimizer was constructed with.

    A step with a non-finite gradient anywhere changes nothing; it is counted in :attr:`skipped_steps`.

    Args:
        params: The model itself, ``model.named_parameters()`` (names make layers and units exact), or anything
            ``torch.optim`` takes.
        lr: Learning rate every node starts at, > 0 (default: that of the rule).
        rule: Direction of the update, from :mod:`multirate.rules` (default: Adam).
        levels: Names of built-in levels (``global``, ``group``, ``layer``, ``gate``, ``unit``, ``parameter``) and
            :class:`multirate.Level` objects; any two of them have to nest.
        adaptation: How rates move and mix, from :mod:`multirate.adaptation` (default: log-rates).
        transition: :class:`~multirate.adaptation.Transition` to a fixed rate, or its rate r (default: none).
        maximize: Maximise instead of minimise.
        foreach: ``False`` runs the for-loop reference; otherwise the multi-tensor kernel.
        state_dtype: ``torch.bfloat16`` keeps what the rule remembers of every element in half the memory, rounded at
            random (default: float32). Learned rates, float64 and complex parameters keep their precision.

    Raises:
        ValueError: For an option out of range, levels that do not nest, or no parameters; the message names the
            option, its value and the cure.

    Example:
        >>> import torch, multirate
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = multirate.MultiRate(model.named_parameters(), 1e-3, levels=("global", "unit"))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()

    Reference:
        Jie, Gao, Vasnev, Tran: Adaptive Hierarchical Hyper-gradient Descent, arXiv 2008.07277, Algorithm 1.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float | Tensor | None = None,
        *,
        rule: Rule | None = None,
        levels: Sequence[str | Level] = ("global", "layer"),
        adaptation: Adaptation | None = None,
        transition: Transition | float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        if state_dtype not in (None, kernels.rounding.SHORT):
            raise ValueError(
                f"state_dtype: {state_dtype!r} cannot be rounded to; use torch.bfloat16, or None for float32"
            )
        self._state_dtype = state_dtype
        self.rule = rule if rule is not None else Adam()
        if not isinstance(self.rule, Rule):
            raise ValueError(f"rule: {rule!r} is not a rule; use one from multirate.rules, such as Adam()")
        chosen = adaptation if adaptation is not None else LogRates()
        if not isinstance(chosen, Adaptation):
            raise ValueError(f"adaptation: {adaptation!r} is not one; use one from multirate.adaptation")
        lr = self.rule.default_lr if lr is None else lr
        self._lr = _positive_lr(lr)
        self._levels = tuple(levels) if not isinstance(levels, str) else levels
        self._chosen = chosen
        self.transition = Transition(transition) if isinstance(transition, (int, float)) else transition
        self._kinds = module_kinds(params) if isinstance(params, nn.Module) else {}
        self._ready = False
        options = {
            "lr": lr,
            **self.rule.options(),
            "maximize": maximize,
            "foreach": foreach,
            "reference_lr": self._lr,
        }
        self.rule.check(options)
        super().__init__(_listed(params), options)
        self._ready = True
        self._build()

    _state_dtype: torch.dtype | None = None

    # -- construction ------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its new nodes start at the constructor's ``lr``, nodes that exist keep their rates."""
        for name in ("hyper_lr", "weight_lr", "weights", "levels", "adaptation", "rule"):
            if name in param_group:
                raise ValueError(
                    f"{name}: not an option of a param group, since nodes may span groups; "
                    "give it to the optimizer (hyper_lr takes one number per level)"
                )
        group_lr = param_group.get("lr", self._lr)
        if not isinstance(group_lr, Tensor) and not (isfinite(group_lr) and group_lr >= 0):
            raise ValueError(f"lr: {group_lr!r} of a param group must be finite and not negative")
        super().add_param_group(param_group)
        self.rule.check(self.param_groups[-1])
        if self._ready:
            self._build()

    def _build(self) -> None:
        """Lays out the tree and the memory for the present parameters; values already in the state are kept."""
        self._parameters = [p for group in self.param_groups for p in group["params"]]
        infos = describe_parameters(self.param_groups, self._kinds)
        tree = Tree(self._levels, infos)
        given = [level_name(level) for level in self._levels]
        self.adaptation = self._chosen.for_levels(tree.levels, given)
        wide = any(p.dtype in (torch.float64, torch.complex128) for p in self._parameters)
        dtype = torch.float64 if wide else torch.float32
        device = self._parameters[0].device
        self._tree = tree.to(device, dtype)
        tree.warm()
        self._memory = Memory(tree, self._slots(), device, dtype, self._parameters)
        for i, parameter in enumerate(self._parameters):
            self._memory.adopt(i, self.state[parameter])
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    self._allocate(parameter, group)
        self._plans: dict[Any, Any] = {}
        self._one = torch.ones((), dtype=dtype, device=device)
        self._zero_rows = [torch.zeros(self._row_count, c.count, dtype=dtype, device=device) for c in tree.cells]

    def _slots(self) -> list[Slot]:
        """All learned quantities and counters."""
        return [
            *self.adaptation.slots(self._tree.levels, self._lr),
            Slot("step", TENSOR),
            Slot("factor", TENSOR),
            *(Slot(name, TENSOR, initial) for name, initial in self.rule.scalars.items()),
            Slot("time", MODEL),
            Slot("skipped", MODEL),
        ]

    @property
    def _row_count(self) -> int:
        return 3 if self.adaptation.needs_norms else 1

    def _allocate(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Makes what is missing of a parameter's elementwise state."""
        state = self.state[parameter]
        dtype = kernels.arithmetic_dtype(parameter.dtype)
        for name, (start, own) in self._elementwise(group).items():
            if name not in state:
                short = self._state_dtype if self._rounds(parameter) and name not in _PLACES else None
                kind = own or short or dtype
                if parameter.is_complex() and not kind.is_floating_point and not kind.is_complex:
                    kind = dtype
                value = complex(start, start) if parameter.is_complex() else start
                state[name] = torch.full_like(
                    parameter, value, dtype=kind, memory_format=torch.preserve_format, requires_grad=False
                )

    def _rounds(self, parameter: Tensor) -> bool:
        """Whether state of a parameter is kept short."""
        return self._state_dtype is not None and kernels.arithmetic_dtype(parameter.dtype) == torch.float32

    # -- one step ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step.

        Args:
            closure: Reevaluates the model and returns the loss.

        Returns:
            What the closure returned, or ``None``.

        Raises:
            RuntimeError: For a sparse gradient or a sharded parameter, which this optimizer does not take.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = self._batches()
        if batches:
            self._step(batches)
        else:
            self._no_step()
        return loss

    def _no_step(self) -> None:
        """A step when no parameter has a gradient."""

    def _step(self, batches: list[Batch]) -> None:
        present = self._present(batches)
        measured = self._measure(batches, present)
        finite = measured.live
        measured.live = finite * awake(self.param_groups, self._memory.device, self._memory.dtype)
        rates = self.adaptation.update(self._memory, measured, self._reference_lr)
        schedule = self._count(measured.live, present)
        self._memory["skipped"].add_(1.0 - finite)
        self._apply(batches, rates, schedule, measured.live)

    @property
    def _reference_lr(self) -> float:
        """The learning rate rates are relative to; a loaded state brings its own."""
        number: float = self.param_groups[0]["reference_lr"]
        return number

    def _batches(self) -> list[Batch]:
        """Collects parameters with a gradient into batches of one group, type, device and bounded size."""
        if self._parameters and self._parameters[0].device != self._memory.device:
            self._relocate()
        batches: list[Batch] = []
        index = 0
        for group in self.param_groups:
            start, names = index, [*self._elementwise(group)]
            open_batches: dict[object, tuple[Batch, int]] = {}
            fit: dict[object, tuple[Batch, list[ModuleType]]] = {}
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is not None:
                    _refuse(parameter)
                    state, size, cells = self.state[parameter], parameter.numel(), self._tree.cells[index]
                    if any(name not in state for name in names):
                        self._allocate(parameter, group)
                    alike = (parameter.dtype, parameter.device)
                    if alike not in fit:
                        model = self._empty_batch(group, parameter, start, names)
                        fit[alike] = model, kernels.candidates(model, parameter)
                    tensors = [state[name] for name in names]
                    kernel = kernels.choose(fit[alike][1], fit[alike][0], cells, parameter, gradient, tensors)
                    limit = _limit(parameter, kernel)
                    kind = (*alike, kernel.__name__)
                    batch, filled = open_batches.get(kind, (None, 0))
                    if batch is None or filled + size > limit:
                        batch, filled = self._empty_batch(group, parameter, start, names), 0
                        batch.kernel = kernel
                        batches.append(batch)
                    if size <= limit:  # a larger tensor is a batch of its own, and the open one stays open
                        open_batches[kind] = (batch, filled + size)
                    self._collect(batch, index, parameter, tensors)
                index += 1
        return batches

    def _elementwise(self, group: dict[str, Any]) -> dict[str, tuple[float, torch.dtype | None]]:
        """Elementwise state of a group's parameters: where each starts, and its type if not that of the arithmetic."""
        wanted: dict[str, tuple[float, torch.dtype | None]] = {
            name: (start, None) for name, start in self.rule.buffers(group).items()
        }
        if self.adaptation.horizon > 0:
            wanted[TRACE] = (0.0, None)
        elif self.rule.keeps_direction(group):
            wanted[DIRECTION] = (0.0, self.rule.direction_dtype)
        return wanted

    def _empty_batch(self, group: dict[str, Any], parameter: Tensor, start: int, names: list[str]) -> Batch:
        return Batch(
            rule=self.rule,
            options=group,
            start=start,
            index=[],
            cells=[],
            parameters=[],
            gradients=[],
            state={name: [] for name in names},
            steps=[],
            elementwise=ELEMENT in self._tree.levels,
            horizon=self.adaptation.horizon,
            norms=self.adaptation.needs_norms,
            complex_pairs=parameter.is_complex(),
            rounds=self._rounds(parameter),
            cells_in_all=self._tree.offsets[-1],
            plans=self._plans,
        )

    def _collect(self, batch: Batch, index: int, parameter: Tensor, tensors: list[Tensor]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        batch.index.append(index)
        batch.cells.append(self._tree.cells[index])
        batch.starts.append(self._tree.offsets[index])
        batch.steps.append(self.state[parameter]["step"])
        if batch.complex_pairs:
            parameter, gradient = torch.view_as_real(parameter), torch.view_as_real(gradient.resolve_conj())
            tensors = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
        batch.parameters.append(parameter)
        batch.gradients.append(gradient)
        for kept, tensor in zip(batch.state.values(), tensors, strict=True):
            kept.append(tensor)

    def _coefficients(self, schedule: Tensor, ahead: float = 0.0) -> Callable[[Batch], dict[str, kernels.Picked]]:
        """The rule's coefficients at the step the memory has counted, or some steps ahead: computed once a group."""
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
                found[key] = {name: kernels.Numbers(vector.to(device, dtype)) for name, vector in vectors.items()}
            positions = [i - start for i in batch.index]
            return {name: numbers.of(positions) for name, numbers in found[key].items()}

        return of

    def _measure(self, batches: list[Batch], present: Tensor | None) -> Measurement:
        """Sums agreement (and norms) over the nodes of every level, bottom up."""
        tree, memory = self._tree, self._memory
        found: list[Measured] = []
        scales: dict[int, Tensor] = {}
        coefficients = self._coefficients(memory["factor"])
        for batch in batches:
            previous = coefficients(batch)
            found.append(batch.kernel.measure(batch, previous))
            if batch.reference_state is None and "scale" in previous:
                scales[batch.start] = previous["scale"].of_group
        stacked, elements = self._table(batches, found)
        if scales:
            scale = torch.ones_like(memory["step"])
            for start, values in scales.items():
                scale[start : start + len(values)] = values.to(memory.device, memory.dtype)
            of_cell = scale[tree.tensor_of_cell]
            powers = [of_cell, torch.ones_like(of_cell), of_cell * of_cell][: self._row_count]
            stacked = stacked * torch.stack(powers)
            for i, found_elements in elements.items():
                powers = [scale[i], self._one, scale[i] * scale[i]][: self._row_count]
                elements[i] = [e * power.to(e.device) for e, power in zip(found_elements, powers, strict=True)]
        live = torch.isfinite(stacked).all().to(memory.dtype)
        factor = memory["factor"] if present is None else memory["factor"] * present
        factor_of_cell = factor[tree.tensor_of_cell]
        moved = (factor_of_cell != 0).to(memory.dtype)
        # Absent and motionless tensors count for nothing, whatever their rows hold.
        weighted = torch.where(
            moved > 0,
            torch.cat([stacked[:1] * factor_of_cell, stacked[1:]], dim=0),
            torch.zeros_like(stacked),
        )
        table = torch.cat([weighted, (tree.elements_of_cell * moved).unsqueeze(0)], dim=0)
        return self._pooled(table, elements, factor, live)

    def _table(self, batches: list[Batch], found: list[Measured]) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """Sums of all cells, ``(3 or 4, cells)``, 0 where nothing was measured; and elements by tensor."""
        memory, rows = self._memory, list(self._zero_rows)
        elements: dict[int, list[Tensor]] = {}
        tables = []
        for batch, measured in zip(batches, found, strict=True):
            if measured.table is not None:
                tables.append(measured.table.to(memory.device, memory.dtype))
            for i, row in zip(batch.index, measured.rows, strict=False):
                rows[i] = row.to(memory.device, memory.dtype)
            elements.update(zip(batch.index, measured.elements, strict=False))
        if len(tables) < len(found):
            tables.append(torch.cat(rows, dim=1))
        return sum(tables[1:], start=tables[0]), elements

    def _pooled(self, table: Tensor, elements: dict[int, list[Tensor]], factor: Tensor, live: Tensor) -> Measurement:
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
        if ELEMENT in tree.levels:
            like = next(v for v in memory.values.values() if isinstance(v, TensorList))
            for k in range(self._row_count):
                tensors = []
                for i, template in enumerate(like):
                    value = elements[i][k].to(template.dtype) if i in elements else torch.zeros_like(template)
                    tensors.append(value * factor[i].to(value.device) if k == 0 else value)
                columns[k][ELEMENT] = TensorList(tensors)
            columns[-1][ELEMENT] = TensorList([(f != 0).to(memory.dtype) for f in factor.unbind()])
        empty: dict[str, Values] = {}
        norms = self.adaptation.needs_norms
        return Measurement(
            sums=columns[0],
            counts=columns[-1],
            gradient_squares=columns[1] if norms else empty,
            direction_squares=columns[2] if norms else empty,
            live=live,
            distance_squares=columns[3] if self._row_count == 4 else empty,
        )

    def _present(self, batches: list[Batch]) -> Tensor | None:
        """1 for each tensor that has a gradient, else 0; ``None`` when all have one."""
        chosen = {i for batch in batches for i in batch.index}
        if len(chosen) == len(self._parameters):
            return None
        key = ("present", *sorted(chosen))
        if key not in self._plans:  # remembered, for the host would wait for the copy to a device
            mask = [1.0 if i in chosen else 0.0 for i in range(len(self._parameters))]
            self._plans[key] = torch.tensor(mask, dtype=self._memory.dtype, device=self._memory.device)
        present: Tensor = self._plans[key]
        return present

    def _count(self, live: Tensor, present: Tensor | None) -> Tensor:
        """Counts the step for the tensors that take it, notes and returns the schedule's factor of every tensor."""
        memory = self._memory
        taken = live.expand(len(self._parameters)) if present is None else live * present
        memory["step"].add_(taken)
        memory["time"].add_(live)
        scalars = {name: memory[name] for name in ("step", *self.rule.scalars)}
        start = 0
        for group in self.param_groups:
            stop = start + len(group["params"])
            part = {name: value[start:stop] for name, value in scalars.items()}
            self.rule.advance_scalars(part, taken[start:stop], group)
            for name in self.rule.scalars:
                memory[name][start:stop].copy_(part[name])
            start = stop
        factor = self._factors()
        settle(memory["factor"], factor if self.transition is None else factor * self._share(), taken)
        return factor

    def _factors(self) -> Tensor:
        """What multiplies each tensor's direction beside its rate: the schedule."""
        return self._schedule()

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

    def _apply(self, batches: list[Batch], rates: Values, schedule: Tensor, live: Tensor) -> None:
        """Applies the combined rates, with the transition and the schedule on top."""
        schedule = schedule * live
        rates_of, coefficients = self._rates_of(rates, schedule), self._coefficients(schedule)
        moved = self._columns(schedule.ne(0))
        self._seed(batches)
        for batch in batches:
            batch.kernel.apply(batch, rates_of(batch), coefficients(batch), live.to(*where(batch)), moved(batch))

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

    def _rates_of(self, rates: Values, schedule: Tensor) -> Callable[[Batch], Sequence[Tensor]]:
        """What a batch's tensors are moved with: the combined rates, with the transition and the schedule on top."""
        if self.transition is not None:
            rates = self.transition.mix(rates, self._memory["time"][0], self._reference_lr)
        tree = self._tree
        cells = (
            tree.lift(rates, tree.finest, "cell") * schedule[tree.tensor_of_cell] if isinstance(rates, Tensor) else None
        )

        def of(batch: Batch) -> Sequence[Tensor]:
            device, dtype = where(batch)
            if isinstance(cells, Tensor):
                return kernels.CellRates(cells.to(device, dtype), tree, batch.index)
            return [(rates[i] * schedule[i].to(device)).to(device, dtype) for i in batch.index]

        return of

    # -- state -------------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state, learned rates in their own precision; also one of the matching ``torch.optim`` class.

        A state without learned rates (from ``torch.optim``) starts the rule warm and the rates at their beginning.

        Raises:
            ValueError: When the state has rates of levels this optimizer lacks, or of other shapes; nothing is changed.
        """
        checkpoint.load(self, state_dict, super().load_state_dict)

    def _relocate(self) -> None:
        """Follows parameters that moved to another device after construction."""
        for parameter in self._parameters:
            state = self.state[parameter]
            for name, value in state.items():
                if name not in self._memory.slots:
                    state[name] = value.to(parameter.device)
        self._build()

    def __getstate__(self) -> dict[str, Any]:
        own = ("rule", "_levels", "_chosen", "transition", "_lr", "_kinds", "_ready", "_state_dtype")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "rule" in state:
            self._build()


def where(batch: Batch) -> tuple[torch.device, torch.dtype]:
    """Device and precision of a batch's arithmetic."""
    first = batch.parameters[0]
    return first.device, kernels.arithmetic_dtype(first.dtype)


def _limit(parameter: Tensor, kernel: ModuleType) -> float:
    """How many elements a batch may have."""
    if kernel in kernels.UNLIMITED:
        return inf
    return _BATCH_ELEMENTS if parameter.device.type == "cpu" else _BATCH_ELEMENTS_ON_DEVICE


def _positive_lr(lr: float | Tensor) -> float:
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr: a tensor of shape {tuple(lr.shape)} is not one number; use a float or a 0-d tensor")
    number = float(lr)
    if not (isfinite(number) and number > 0):
        raise ValueError(
            f"lr: {lr!r} must be positive and finite, since learned rates are relative to it; "
            "start from a small rate such as 1e-4 and let a scheduler set lr to 0 where you need that"
        )
    return number


def _listed(params: Parameters) -> list[Any]:
    if isinstance(params, nn.Module):
        params = params.named_parameters()
    if isinstance(params, Tensor):
        raise ValueError("params: got a single tensor; pass an iterable of tensors, such as [tensor]")
    listed: list[Any] = list(params)
    if not listed:
        raise ValueError("params: the parameter list is empty; pass model.named_parameters() of a model that has some")
    return listed


def _refuse(parameter: Tensor) -> None:
    """Raises for what would be computed wrongly."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout != torch.strided:
        raise RuntimeError(
            "gradient: sparse gradients are not supported; use sparse=False in the embedding, "
            "torch.optim.SparseAdam for that parameter, or p.grad = p.grad.to_dense()"
        )
    if hasattr(parameter, "placements"):
        raise RuntimeError(
            "params: sharded parameters (DTensor) are not supported: their sums would be local ones; "
            "use DistributedDataParallel, whose parameters are whole"
        )
