"""What one element goes through in a kernel, found by running the reference on symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from math import exp, inf, isfinite, sqrt
from types import MappingProxyType
from typing import Any

from multirate.kernels import reference
from multirate.kernels.batch import Batch, Measured
from multirate.kernels.compiled.symbols import Kind, Node, Recorder, Symbol, ordered
from multirate.replay import is_constant
from multirate.rules import Rule

PARAMETER, GRADIENT = "parameter", "gradient"
RATE = "rate"
COEFFICIENT = "coefficient "
PREVIOUS = "previous coefficient "
LIVE = "live"
SHARE = "share"
MOVED = "moved"
HELD = "held"
"""What the direction of a tensor was to be multiplied by, lest it be too long."""
_OPTIONS = "options"


@dataclass(frozen=True, eq=False)
class Program:
    """The arithmetic of one element.

    Attributes:
        stores: What becomes of the elementwise tensors (parameter, state) that change.
        sums: What is summed over cells.
        elements: What is written down for every element.
    """

    stores: Mapping[str, Node]
    sums: tuple[Node, ...]
    elements: tuple[Node, ...]

    @property
    def outputs(self) -> list[Node]:
        """All values that leave the kernel."""
        return [*self.stores.values(), *self.sums, *self.elements]

    @cached_property
    def nodes(self) -> list[Node]:
        """All values, each after those it is made of."""
        return list(ordered(self.outputs))

    def inputs(self, kind: Kind) -> list[str]:
        """Names of the inputs of one kind."""
        return [node.arguments[0] for node in self.nodes if node.operation == "input" and node.kind is kind]

    @cached_property
    def arrays(self) -> list[str]:
        """Names of the elementwise tensors it reads or writes."""
        return list(dict.fromkeys([*self.inputs(Kind.ELEMENT), *self.stores]))

    @cached_property
    def columns(self) -> list[str]:
        """Names of the numbers it needs of every tensor."""
        return self.inputs(Kind.TENSOR)

    @cached_property
    def cells(self) -> list[str]:
        """Names of the numbers it needs of every cell."""
        return self.inputs(Kind.CELL)

    @cached_property
    def calls(self) -> list[Node]:
        """Values known before the call that others than such values are made of."""
        used = {id(a): a for n in self.nodes if n.kind > Kind.CALL for a in n.arguments if isinstance(a, Node)}
        used.update({id(n): n for n in self.outputs})
        return [node for node in used.values() if node.kind is Kind.CALL and node.operation != "constant"]

    def call_values(self, numbers: Mapping[str, float]) -> list[float]:
        """The numbers of :attr:`calls`, in double precision."""
        found: dict[int, float] = {}
        for node in self.nodes:
            if node.kind is Kind.CALL:
                arguments = [found[id(a)] if isinstance(a, Node) else a for a in node.arguments]
                found[id(node)] = (
                    numbers[node.arguments[0]] if node.operation == "input" else _ARITHMETIC[node.operation](*arguments)
                )
        return [found[id(node)] for node in self.calls]


_ARITHMETIC: Mapping[str, Callable[..., float]] = {
    "constant": lambda value: value,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "abs": abs,
    "sqrt": sqrt,
    "exp": exp,
    "finite": lambda a: float(isfinite(a)),
    "sign": lambda a: float((a > 0) - (a < 0)),
    "minimum": min,
    "maximum": max,
    "greater": lambda a, b: float(a > b),
    "where": lambda condition, a, b: a if condition else b,
}


@dataclass(frozen=True)
class Options:
    """What the options of a batch say, as far as programs want to know.

    Attributes:
        given: What it was found from.
        numbers: All numbers among them, by the names programs know them by.
        signature: What decides the arithmetic: batches that agree in it share their programs.
    """

    given: tuple[Any, ...]
    numbers: Mapping[str, float]
    signature: tuple[Any, ...]


def options_of(batch: Batch) -> Options:
    """The options of a batch: the same object as long as nothing changes."""
    values = tuple(map(batch.options.__getitem__, _names(type(batch.rule))))
    given = (values, batch.horizon, batch.interpolation, batch.at_training_point)
    known: Options | None = batch.layouts.get(_OPTIONS)
    if known is not None and known.given == given:
        return known
    found = Options(given, MappingProxyType(_numbers(batch)), _signature(batch))
    if is_constant(values):
        batch.layouts[_OPTIONS] = found
    return found


def _numbers(batch: Batch) -> dict[str, float]:
    found = {"horizon": batch.horizon, "interpolation": batch.interpolation}
    for name, value in _relevant(batch):
        if isinstance(value, tuple):
            found.update({f"{name}.{i}": float(v) for i, v in enumerate(value)})
        elif _is_number(value):
            found[name] = float(value)
    return found


def _signature(batch: Batch) -> tuple[Any, ...]:
    options = tuple(
        (name, tuple(v > 0 for v in value) if isinstance(value, tuple) else value > 0 if _is_number(value) else value)
        for name, value in _relevant(batch)
    )
    state = tuple((name, tensors[0].dtype) for name, tensors in batch.state.items())
    return (
        type(batch.rule), options, state, batch.parameters[0].dtype, batch.elementwise, batch.norms,
        batch.horizon > 0, batch.at_training_point,
    )  # fmt: skip


@cache
def _names(rule: type[Rule]) -> tuple[str, ...]:
    return (*(field.name for field in fields(rule)), "maximize")


def _relevant(batch: Batch) -> list[tuple[str, Any]]:
    options = [(name, batch.options[name]) for name in _names(type(batch.rule))]
    return [(name, tuple(value) if isinstance(value, list) else value) for name, value in options]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Cells:
    """Stands for the cells of a tensor: notes what is summed over them."""

    def __init__(self) -> None:
        self.sums: list[Node] = []

    def reduce(self, product: Symbol) -> Symbol:
        self.sums.append(product.node)
        return product


class _Trace:
    """One tensor of symbols, shaped like a batch of one."""

    def __init__(
        self,
        batch: Batch,
        coefficients: Mapping[str, Any],
        live: bool,
        recorder: Recorder | None = None,
        prefix: str = COEFFICIENT,
    ) -> None:
        self.recorder = Recorder() if recorder is None else recorder
        self.cells = _Cells()
        first = batch.parameters[0].dtype
        kinds = {PARAMETER: first, GRADIENT: first}
        kinds.update({name: tensors[0].dtype for name, tensors in batch.state.items()})
        self.arrays = {name: self._input(name, Kind.ELEMENT, dtype=dtype) for name, dtype in kinds.items()}
        self.starts = {name: symbol.node for name, symbol in self.arrays.items()}
        self.coefficients = {name: [self.column(f"{prefix}{name}")] for name in coefficients}
        constant: Any = Symbol(self.recorder, self.recorder.node("constant", 1.0), value=1.0)
        self.live: Any = self.column(LIVE) if live else constant
        options = dict(batch.options)
        for name, value in _relevant(batch):
            if isinstance(value, tuple):
                options[name] = tuple(self._option(f"{name}.{i}", v) for i, v in enumerate(value))
            elif _is_number(value):
                options[name] = self._option(name, value)
        cells: Any = self.cells
        self.batch: Any = Batch(
            rule=batch.rule,
            options=options,
            start=0,
            index=[0],
            cells=[cells],
            parameters=[self.arrays[PARAMETER]],
            gradients=[self.arrays[GRADIENT]],
            state={name: [self.arrays[name]] for name in batch.state},
            steps=[],
            elementwise=batch.elementwise,
            horizon=self._option("horizon", batch.horizon),
            norms=batch.norms,
            complex_pairs=False,
            at_training_point=batch.at_training_point,
            interpolation=self._option("interpolation", batch.interpolation),
        )
        if batch.rule.longest < inf:
            self.batch.held = [self.column(HELD)]

    # Symbols are handed to code that is written, and typed, for tensors.

    def _input(self, name: str, kind: Kind, **about: Any) -> Any:
        return self.recorder.input(name, kind, **about)

    def _option(self, name: str, value: float) -> Any:
        return self._input(name, Kind.CALL, value=float(value))

    def rate(self, node: Node | None = None) -> Any:
        """The applied rate; one that has been worked out already by its node."""
        if node is not None:
            return Symbol(self.recorder, node)
        return self._input(RATE, Kind.ELEMENT if self.batch.elementwise else Kind.CELL)

    def column(self, name: str) -> Any:
        """A number that every tensor has."""
        return self._input(name, Kind.TENSOR)

    def program(self, measured: Measured | None = None) -> Program:
        """What has been done to the symbols."""
        stores = {name: s.node for name, s in self.arrays.items() if s.node is not self.starts[name]}
        products: list[Any] = measured.elements[0] if measured and measured.elements else []
        return Program(
            stores=stores,
            sums=tuple(self.cells.sums),
            elements=tuple(product.node for product in products),
        )


def measure(batch: Batch, previous: Mapping[str, Any]) -> Program:
    """Of :func:`multirate.kernels.reference.measure`."""
    trace = _Trace(batch, previous, live=False)
    return trace.program(reference.measure(trace.batch, trace.coefficients))


@dataclass(frozen=True, eq=False)
class Products:
    """What is measured of every element, and summed over cells.

    Attributes:
        sums: What is summed, without the scale of the direction.
        elements: The same with it.
    """

    sums: tuple[Node, ...]
    elements: tuple[Node, ...]


def products(batch: Batch, previous: Mapping[str, Any], recorder: Recorder) -> Products:
    """Of :func:`multirate.kernels.reference.measure`; previous coefficients have a name of their own."""
    trace = _Trace(batch, previous, live=False, recorder=recorder, prefix=PREVIOUS)
    sums = trace.program(reference.measure(trace.batch, trace.coefficients)).sums
    if "scale" not in previous or batch.reference_state is not None:
        return Products(sums, sums)
    scale = trace.column(f"{PREVIOUS}scale").node
    powers = (scale, None, recorder.node("mul", scale, scale))
    scaled = [node if p is None else recorder.node("mul", node, p) for node, p in zip(sums, powers, strict=False)]
    return Products(sums, tuple(scaled))


def apply(
    batch: Batch, c: Mapping[str, Any], live: bool, recorder: Recorder | None = None, rate: Node | None = None
) -> Program:
    """Of :func:`multirate.kernels.reference.apply`.

    Args:
        batch: The tensors.
        c: Coefficients of the update.
        live: Whether it has to hold for skipped steps too.
        recorder: What makes the nodes.
        rate: The applied rate, where it is worked out in the same pass.
    """
    trace = _Trace(batch, c, live, recorder)
    reference.apply(trace.batch, [trace.rate(rate)], trace.coefficients, trace.live, [trace.column(MOVED)])
    return trace.program()


def measure_and_apply(batch: Batch, previous: Mapping[str, Any], c: Mapping[str, Any], live: bool) -> Program:
    """Of :func:`multirate.kernels.measure_and_apply`; previous coefficients have a name of their own."""
    before = _Trace(batch, previous, live=False, prefix=PREVIOUS)
    measured = before.program(reference.measure(before.batch, before.coefficients))
    return replace(measured, stores=apply(batch, c, live, recorder=before.recorder).stores)


def advance(batch: Batch, c: Mapping[str, Any], rests_at_average: bool, live: bool) -> Program:
    """Of :func:`multirate.kernels.reference.advance`; what holds directions has been found before, see :func:`look`."""
    trace = _Trace(batch, c, live)
    measured = reference.advance(
        trace.batch,
        [trace.rate()],
        trace.coefficients,
        trace.live,
        [trace.column(SHARE)],
        rests_at_average,
    )
    return trace.program(measured)


def look(batch: Batch, c: Mapping[str, Any]) -> Program:
    """Squared norms of the gradient and, where directions are held to a length, of the direction."""
    trace = _Trace(batch, c, live=False)
    gradient, own = trace.arrays[GRADIENT], {name: values[0] for name, values in trace.coefficients.items()}
    trace.cells.reduce(gradient * gradient)
    if batch.rule.longest < inf:
        state = {name: symbols[0] for name, symbols in trace.batch.state.items()}
        direction = batch.rule.update(
            reference.gradient_of(trace.batch, trace.batch.parameters[0], trace.batch.gradients[0]),
            state,
            own,
            trace.live,
            trace.batch.options,
        )
        direction = direction * own["scale"] if "scale" in own else direction
        trace.cells.reduce(direction * direction)
    trace.arrays.clear()
    return trace.program()
