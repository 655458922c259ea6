"""How the names and shapes of parameters become levels.

A level is a partition of all parameter elements into nodes. Built-in levels, coarse to fine:

* ``global``: one node.
* ``group``: one node per ``param_group``.
* ``layer``: one node per module when names are known, else one per tensor.
* ``gate``: the gates of LSTM and GRU weights; every other layer is a single gate.
* ``unit``: one node per output neuron, filter, embedding row or LSTM row, the matching bias element included.
  A 1-D tensor that stands alone (the scale or shift of a norm) is one unit.
* ``parameter``: one node per element.

Between them the user may name others by a function of the parameter's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

BUILT_IN = ("global", "group", "layer", "gate", "unit", "parameter")
_RECURRENT = re.compile(r"^(weight|bias)_(ih|hh|hr)(_l\d+(?:_reverse)?)?$")
GATES = {4: ("input", "forget", "cell", "output"), 3: ("reset", "update", "new")}
"""Names of the gates of LSTM and GRU weights in their order along dimension 0, by their number."""


@dataclass(frozen=True)
class Level:
    """A level named by the user.

    Args:
        name: Name of the level, as used in ``levels``, ``hyper_lr`` and ``rates()``.
        node: Function from a parameter's name to the node it belongs to (any hashable; ``None`` puts the
            parameter into a node called ``rest``).

    Example:
        >>> block = Level("block", lambda name: name.split(".")[0])
        >>> block.name
        'block'
    """

    name: str
    node: Callable[[str], Hashable]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name in BUILT_IN or "." in self.name:
            raise ValueError(
                f"levels: {self.name!r} cannot name a level of yours; use a non-empty string without dots "
                f"that is none of {', '.join(BUILT_IN)}"
            )
        if not callable(self.node):
            raise ValueError(f"levels: the node function of level {self.name!r} is not callable: {self.node!r}")


def level_name(level: object) -> str:
    """Name of a level given as a string, a :class:`Level` or a pair of name and function."""
    return str(level[0] if isinstance(level, tuple) and level else getattr(level, "name", level))


@dataclass(frozen=True)
class ModuleKind:
    """What the type of a module says of its weights: transposed convolution, its groups, and its number of gates."""

    transposed: bool
    groups: int
    gates: int


def module_kinds(model: nn.Module) -> dict[str, ModuleKind]:
    """The kind of every module of a model, by name."""
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    kinds = {}
    for name, module in model.named_modules():
        gates = (
            4 if isinstance(module, (nn.LSTM, nn.LSTMCell)) else 3 if isinstance(module, (nn.GRU, nn.GRUCell)) else 0
        )
        is_transposed = isinstance(module, transposed)
        kinds[name] = ModuleKind(is_transposed, int(getattr(module, "groups", 1)) if is_transposed else 1, gates)
    return kinds


@dataclass(frozen=True)
class ParameterInfo:
    """What the tree has to know of one parameter.

    Attributes:
        name: Full name, or ``tensor<i>`` when no names were given.
        layer: Name of the module that owns it, or ``name`` when names are unknown.
        group: Index of its param group.
        shape: Shape of the parameter.
        is_complex: Whether an element is a complex number.
        unit_family: Tensors of one layer with the same family and unit count share units; ``None`` for a
            tensor that is a single unit.
        unit_count: Number of units of the tensor (1 when it is a single unit).
        unit_dims: Dimensions of the (split) tensor indexed by the unit.
        unit_split: ``(outer, inner)`` sizes dimension 0 is split into before indexing, or ``None``.
        gates: Names of the equal-sized gates along dimension 0 (empty: the tensor has none).
        gate_prefix: Start of the gates' node names.
        named: Whether ``name`` was given by the user.
    """

    name: str
    layer: str
    group: int
    shape: tuple[int, ...]
    is_complex: bool
    unit_family: str | None
    unit_count: int
    unit_dims: tuple[int, ...]
    unit_split: tuple[int, int] | None
    gates: tuple[str, ...]
    gate_prefix: str
    named: bool


def _owner_and_leaf(name: str) -> tuple[str, str]:
    """Splits a parameter's name into its module and its own name; parametrized weights belong to their owner."""
    owner, _, leaf = name.rpartition(".")
    head, marker, tail = owner.rpartition("parametrizations.")
    if marker and "." not in tail:
        return head.rstrip("."), f"{tail}.{leaf}"
    return owner, leaf


def _is_transposed(weight: torch.Tensor, bias: torch.Tensor | None, kind: ModuleKind | None) -> tuple[bool, int]:
    """Whether a weight is (in, out / groups, ...) as in a transposed convolution, and its number of groups.

    With the module known this is exact; from names alone the bias length decides, and a square weight counts
    as an ordinary one.
    """
    if kind is not None:
        return kind.transposed, kind.groups
    if bias is None or weight.ndim < 3 or bias.ndim != 1 or bias.shape[0] == weight.shape[0]:
        return False, 1
    outputs, per_group = bias.shape[0], weight.shape[1]
    if per_group and outputs % per_group == 0 and weight.shape[0] % (outputs // per_group) == 0:
        return True, outputs // per_group
    return False, 1


def _gate_count(leaf: str, siblings: Mapping[str, torch.Tensor], kind: ModuleKind | None) -> int:
    """Number of gates of a recurrent weight: 4 for LSTM, 3 for GRU, 0 when it has none."""
    match = _RECURRENT.match(leaf)
    if match is None or match.group(2) == "hr":
        return 0
    if kind is not None:
        return kind.gates
    suffix = match.group(3) or ""
    hidden = siblings.get(f"weight_hh{suffix}")
    if hidden is None or hidden.ndim != 2 or hidden.shape[1] == 0:
        return 0
    if f"weight_hr{suffix}" in siblings:
        return 4
    ratio, rest = divmod(hidden.shape[0], hidden.shape[1])
    return ratio if rest == 0 and ratio in GATES else 0


def _family(leaf: str) -> str:
    match = _RECURRENT.match(leaf)
    if match is not None and match.group(2) != "hr":
        return f"recurrent{match.group(3) or ''}"
    return leaf.replace("weight", "*").replace("bias", "*")


def _describe_one(
    name: str | None,
    index: int,
    group: int,
    parameter: torch.Tensor,
    siblings: Mapping[str, torch.Tensor],
    kind: ModuleKind | None,
) -> ParameterInfo:
    shape = tuple(parameter.shape)
    layer, leaf = _owner_and_leaf(name) if name is not None else (f"tensor{index}", "")
    family: str | None = None
    count = 1
    dims: tuple[int, ...] = ()
    split: tuple[int, int] | None = None
    if len(shape) >= 2:
        family, count, dims = _family(leaf), shape[0], (0,)
        bias = siblings.get(leaf.replace("weight", "bias")) if "weight" in leaf else None
        transposed, groups = _is_transposed(parameter, bias, kind)
        if transposed:
            split = (groups, shape[0] // groups) if groups > 1 else None
            count = groups * shape[1]
            dims = (0, 2) if groups > 1 else (1,)
    elif len(shape) == 1 and name is not None:
        for other, mate in siblings.items():
            if mate.ndim >= 2 and _family(other) == _family(leaf):
                transposed, groups = _is_transposed(mate, parameter, kind)
                if shape[0] == (groups * mate.shape[1] if transposed else mate.shape[0]):
                    family, count, dims = _family(leaf), shape[0], (0,)
    gates: tuple[str, ...] = ()
    prefix = layer
    match = _RECURRENT.match(leaf)
    if match is not None:
        prefix = f"{layer}.{leaf}" if match.group(2) == "hr" else layer + (match.group(3) or "")
        number = _gate_count(leaf, siblings, kind)
        if number and dims == (0,) and count % number == 0:
            gates = GATES[number]
    return ParameterInfo(
        name=name if name is not None else f"tensor{index}",
        layer=layer or "(root)",
        group=group,
        shape=shape,
        is_complex=parameter.is_complex(),
        unit_family=family,
        unit_count=count,
        unit_dims=dims,
        unit_split=split,
        gates=gates,
        gate_prefix=prefix or "(root)",
        named=name is not None,
    )


def describe_parameters(groups: Sequence[Mapping[str, object]], kinds: Mapping[str, ModuleKind]) -> list[ParameterInfo]:
    """Describes every parameter of an optimizer's groups, in order.

    Args:
        groups: The optimizer's ``param_groups`` (``params`` and, when known, ``param_names``).
        kinds: Kinds of modules by name when the model itself was given, else empty.
    """
    rows: list[tuple[str | None, int, torch.Tensor]] = []
    by_owner: dict[str, dict[str, torch.Tensor]] = {}
    for number, group in enumerate(groups):
        tensors: Sequence[torch.Tensor] = group["params"]  # type: ignore[assignment]
        names: Sequence[str | None] = group.get("param_names") or [None] * len(tensors)  # type: ignore[assignment]
        for name, tensor in zip(names, tensors, strict=True):
            rows.append((name, number, tensor))
            if name is not None:
                owner, leaf = _owner_and_leaf(name)
                by_owner.setdefault(owner, {})[leaf] = tensor
    infos = []
    for index, (name, number, tensor) in enumerate(rows):
        owner = _owner_and_leaf(name)[0] if name is not None else ""
        siblings = by_owner[owner] if name is not None else {}
        infos.append(_describe_one(name, index, number, tensor, siblings, kinds.get(owner) if name else None))
    return infos
