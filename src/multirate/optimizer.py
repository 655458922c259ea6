"""The shell that runs a rule, levels and an adaptation as a ``torch.optim.Optimizer``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from multirate import checkpoint, kernels
from multirate.adaptation import Adaptation, LogRates, Transition
from multirate.batching import Collector
from multirate.ghost import awake
from multirate.in_backward import EarlyWork
from multirate.kernels import ANCHOR, AVERAGE, DIRECTION, ITERATE, TRACE, Batch
from multirate.levels import ELEMENT, Level, Tree, Values, describe_parameters, level_name, module_kinds
from multirate.memory import MODEL, TENSOR, Memory, Slot
from multirate.moving import Moving
from multirate.rates import RatesView
from multirate.replay import Replays, is_constant
from multirate.rules import Adam, Rule

Parameters = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]

_PLACES = (ITERATE, ANCHOR, AVERAGE)
"""State that is never kept short: where parameters are and began, whose small steps and differences are what counts."""


_FEW = 1 << 13
"""Cells up to which arithmetic on them is worth recording."""


class MultiRate(Moving, RatesView, torch.optim.Optimizer):
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
        late: Move with the rates as they were learned up to the step before, so that measuring and moving are one
            pass over memory. The paper's order (``False``) measures first, and needs two.
        in_backward: Work on each gradient as soon as it is there, while ``backward`` goes on. Sums are gathered that
            way; with ``late`` parameters are moved too, and gradients freed. See :mod:`multirate.in_backward`.
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
        late: bool = False,
        in_backward: bool = False,
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
        self.late, self.in_backward = late, in_backward
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

    # Of optimizers that were pickled before there was such a thing.
    _state_dtype: torch.dtype | None = None
    late = in_backward = False
    _early: EarlyWork | None = None

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
        self._collector = Collector(self)
        self._replays, self._option_names = Replays(), [*self.rule.options()]
        self._one = torch.ones((), dtype=dtype, device=device)
        self._zero_rows = [torch.zeros(self._row_count, c.count, dtype=dtype, device=device) for c in tree.cells]
        if self.in_backward and not self.moves_first and ELEMENT in tree.levels:
            raise ValueError(
                "in_backward: True gathers sums, but the level 'parameter' needs every element; "
                "use late=True with it, or in_backward=False"
            )
        if self._early is not None:
            self._early.detach()
        self._early = EarlyWork(self, self._parameters) if self.in_backward else None

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
        if self._early is not None:
            self._early.flush()
        try:
            batches = self._batches()
            self._kind = self._kind_of_step(batches)
            if batches or (self._early is not None and self._early.moved):
                self._step(batches)
            else:
                self._no_step()
        finally:
            self._kind = None
            self._collector.release()
            if self._early is not None:
                self._early.forget()
        return loss

    def _kind_of_step(self, batches: list[Batch]) -> Hashable | None:
        """What the arithmetic on a few numbers depends on beside them; ``None`` where it is done in torch.

        So it is off the CPU, in the for-loop reference, under modes that want to see every operation, and where there
        are values of single elements or of more cells than a copy of every result is worth.
        """
        groups = self.param_groups
        if (
            torch.compiler.is_compiling()
            or self._memory.device.type != "cpu"
            or self._early is not None
            or ELEMENT in self._tree.levels
            or self._tree.offsets[-1] > _FEW
            or any(group.get("foreach") is False for group in groups)
            or torch._C._len_torch_dispatch_stack() > 0
        ):
            return None
        options = tuple(group.get(name) for group in groups for name in self._option_names)
        if not all(map(is_constant, options)):
            return None
        self._replays.belong_to(batches)
        return (options, self._reference_lr, id(self.adaptation), id(self.transition))

    def _no_step(self) -> None:
        """A step when no parameter has a gradient."""

    @property
    def moves_first(self) -> bool:
        """Whether parameters move with rates that are known before their gradients are."""
        return self.late

    def _step(self, batches: list[Batch]) -> None:
        if self.moves_first:
            moved = [] if self._early is None else [*self._early.moved]
            self._learn([*moved, self._move_by_known_rates(batches, moved)] if batches else moved)
        else:
            self._learn_and_move(batches)

    def _learn_and_move(self, batches: list[Batch]) -> None:
        """The order of the paper: measure, move rates, move parameters."""
        present = self._present(batches)
        try:
            measurement, found = self._measure(batches, present)

            def learn(factor: Tensor, alive: Tensor, *found: Tensor) -> tuple[Values, Tensor, Tensor]:
                measured = measurement(*found)
                finite = measured.live
                measured.live = finite * alive
                rates = self.adaptation.update(self._memory, measured, self._reference_lr)
                schedule = self._count(measured.live, factor, present)
                self._memory["skipped"].add_(1.0 - finite)
                return rates, schedule, measured.live

            alive = self._one * awake(self.param_groups, self._memory.device, self._memory.dtype)
            self._apply(batches, *self._small("learn", learn, self._factors(), alive, *found))
        finally:
            self._memory.take_back()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """No; but ``GradScaler`` asks just before it steps, having changed gradients without a trace.

        Raises:
            RuntimeError: When parameters were moved with the gradients as they were, scaled.
        """
        if self._early is not None and self.moves_first:
            raise RuntimeError(
                "in_backward: True moves parameters with the gradients of backward, which a GradScaler has scaled; "
                "use in_backward=False, or bfloat16, which needs no scaler"
            )
        if self._early is not None:
            self._early.forget()
        return False

    def _may_move_early(self, index: int) -> bool:
        """Whether the rate of a parameter does not hang on the gradients of others."""
        return True

    @property
    def _reference_lr(self) -> float:
        """The learning rate rates are relative to; a loaded state brings its own."""
        number: float = self.param_groups[0]["reference_lr"]
        return number

    def _batches(self, among: Collection[int] | None = None) -> list[Batch]:
        """Collects parameters with a gradient into batches of one group, type, device and bounded size.

        Args:
            among: Positions of the parameters to look at (default: all).
        """
        self._follow()
        return self._collector.collect(among)

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

    def _place(self, batch: Batch) -> None:
        """Notes where the parameters of a batch are; see :class:`multirate.averaged.Averaged`."""

    # -- state -------------------------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state, learned rates in their own precision; also one of the matching ``torch.optim`` class.

        A state without learned rates (from ``torch.optim``) starts the rule warm and the rates at their beginning.

        Raises:
            ValueError: When the state has rates of levels this optimizer lacks, or of other shapes; nothing is changed.
        """
        checkpoint.load(self, state_dict, super().load_state_dict)
        if self._early is not None:
            self._early.forget()

    def _follow(self) -> None:
        """Follows parameters that moved to another device after construction."""
        if self._parameters and self._parameters[0].device != self._memory.device:
            self._relocate()

    def _relocate(self) -> None:
        """Lays everything out where the parameters are now."""
        for parameter in self._parameters:
            state = self.state[parameter]
            for name, value in state.items():
                if name not in self._memory.slots:
                    state[name] = value.to(parameter.device)
        self._build()

    def __getstate__(self) -> dict[str, Any]:
        own = (
            "rule",
            "_levels",
            "_chosen",
            "transition",
            "_lr",
            "_kinds",
            "_ready",
            "late",
            "in_backward",
            "_state_dtype",
        )
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "rule" in state:
            self._early = None
            self._build()


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
