"""A program's values as statements, in whatever language has such expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from multirate.kernels.compiled.programs import Program
from multirate.kernels.compiled.symbols import Kind, Node


class Statements:
    """Names for the values of a program, and what is assigned to them.

    Args:
        program: The program.
        operations: An expression for every operation, with a place for each argument.
        constant: Returns the expression of a number.
        loaded: Returns the expression of an input in the precision of the arithmetic.
    """

    def __init__(
        self,
        program: Program,
        operations: Mapping[str, str],
        constant: Callable[[float], str],
        loaded: Callable[[str], str],
    ) -> None:
        self._program, self._operations, self._loaded = program, operations, loaded
        self._names = {id(node): f"v{i}" for i, node in enumerate(program.nodes)}
        self._names.update({id(node): f"k{i}" for i, node in enumerate(program.calls)})
        for node in program.nodes:
            if node.operation == "constant":
                self._names[id(node)] = constant(node.arguments[0])

    def name(self, node: Node) -> str:
        """What a value is called."""
        return self._names[id(node)]

    def of(self, kind: Kind) -> list[Node]:
        """The values of one kind, each after those it is made of."""
        return [node for node in self._program.nodes if node.kind is kind and node.operation != "constant"]

    def assigned(self, nodes: Iterable[Node], load: Callable[[str], str]) -> Iterator[str]:
        """Assignments of values; ``load`` tells where an input of some name is."""
        for node in nodes:
            if node.operation == "input":
                value = self._loaded(load(node.arguments[0]))
            else:
                value = self._operations[node.operation].format(*map(self.name, node.arguments))
            yield f"{self.name(node)} = {value}"


def indented(levels: int, lines: Iterable[str], empty: str = "") -> str:
    """Lines as a block of code."""
    return "\n".join("    " * levels + line for line in lines) or ("    " * levels + empty if empty else "")
