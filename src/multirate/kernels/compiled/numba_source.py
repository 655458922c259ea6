"""A program as source code for Numba."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from multirate.kernels.compiled.programs import Program
from multirate.kernels.compiled.statements import Statements, indented
from multirate.kernels.compiled.symbols import Kind, Node

_OPERATIONS = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "abs": "abs({})",
    "sqrt": "sqrt({})",
    "sign": "T({0} > ZERO) - T({0} < ZERO)",
    "exp": "exp({})",
    "finite": "abs({}) < INF",
    # What is not a number stays so, as it does in torch.
    "minimum": "{0} if not ({0} >= {1}) else {1}",
    "maximum": "{0} if not ({0} <= {1}) else {1}",
    "greater": "{} > {}",
    "where": "{1} if {0} else {2}",
}

BYTES = {"float32": 4, "float64": 8, "int8": 1}
"""Types that elements of tensors may have, and their sizes."""

_TEMPLATE = """
def block({arrays}{values}):
{zeros}
    for i in range({first}.shape[0]):
{element}
    return {totals}

def strip({arrays}{cell_arrays}{sums}{outer}):
    for i in range({first}.shape[0]):
{strip}

def kernel(pointers, layout, items, columns, given, calls, partial, sums, backwards, counter):
{calls}
    while True:
        position = taken(counter)
        if position >= items.shape[0]:
            break
        item = items.shape[0] - 1 - position if backwards else position
        tensor, a, c0, c1 = items[item, 0], items[item, 1], items[item, 2], items[item, 3]
        B, C, D, cell = layout[tensor, 0], layout[tensor, 1], layout[tensor, 2], layout[tensor, 3]
{tensor}
        if D == 1 and C > 1:
            for b in range(B):
                first, last = cell + a * C + c0, cell + a * C + c1
                left = (a * B + b) * C + c0
                right = left + c1 - c0
                strip({slices}{cell_slices}{sum_slices}{outer})
            continue
        for b in range(B):
            for c in range(c0, c1):
                node = cell + a * C + c
{cell}
                base = ((a * B + b) * C + c) * D
                end = base + items[item, 5]
                for left in range(base + items[item, 4], end, BLOCK):
                    right = min(left + BLOCK, end)
                    found = block({slices}{values})
                    if c1 - c0 == 1:
{partial}
                    else:
{run}

def entry(data):
    a = carray(data, (14,), int64)
    kernel(
        carray(as_pointer(a[0]), (a[8], {array_count}), int64),
        carray(as_pointer(a[1]), (a[8], 4), int64),
        carray(as_pointer(a[2]), (a[9], 6), int64),
        carray(as_pointer(a[3]), (a[8], {column_count}), float64),
        carray(as_pointer(a[4]), ({given_count}, a[10]), float64),
        carray(as_pointer(a[5]), ({call_count},), float64),
        carray(as_pointer(a[6]), (a[9], {sum_count}), float64),
        carray(as_pointer(a[7]), ({sum_count}, a[10]), float64),
        a[11] != 0,
        a[12],
    )
"""


def source(program: Program, arrays: Mapping[str, str]) -> str:
    """The kernel of a program.

    Args:
        program: What is done to an element.
        arrays: Type of every elementwise tensor by name, those that elements are written to (``element0`` ...) last.
    """
    says = Statements(program, _OPERATIONS, constant=lambda value: f"T({value!r})", loaded=lambda value: f"T({value})")
    of, name_of = says.of, says.name
    place = {name: f"a{i}" for i, name in enumerate(arrays)}
    column = {name: i for i, name in enumerate(program.columns)}
    given = {name: i for i, name in enumerate(program.cells)}

    def used(nodes: Iterable[Node], by: Iterable[Node]) -> list[str]:
        wanted = {id(a) for n in by for a in n.arguments} | {id(n) for n in program.outputs}
        return list(dict.fromkeys(name_of(n) for n in nodes if id(n) in wanted))

    loads = list(says.assigned(of(Kind.ELEMENT), lambda name: f"{place[name]}[i]"))
    stores = [f"{place[name]}[i] = {_cast(name_of(node), arrays[name])}" for name, node in program.stores.items()]
    stores += [f"{place[f'element{k}']}[i] = {name_of(node)}" for k, node in enumerate(program.elements)]
    of_cell = list(says.assigned(of(Kind.CELL), lambda name: f"given[{given[name]}, node]"))
    of_strip = list(says.assigned(of(Kind.CELL), lambda name: f"c{given[name]}[i]"))
    totals = range(len(program.sums))
    outer = used([*program.calls, *of(Kind.TENSOR)], [*of(Kind.CELL), *of(Kind.ELEMENT)])
    values = used([*program.calls, *of(Kind.TENSOR), *of(Kind.CELL)], of(Kind.ELEMENT))
    return _TEMPLATE.format(
        first=next(iter(place.values())),
        array_count=len(place),
        column_count=len(column),
        given_count=len(given),
        call_count=len(program.calls) + 1,
        sum_count=len(program.sums),
        arrays="".join(f"{p}, " for p in place.values()),
        values=", ".join(values),
        outer=", ".join(outer),
        cell_arrays="".join(f"c{k}, " for k in given.values()),
        cell_slices="".join(f"given[{k}, first:last], " for k in given.values()),
        sums="".join(f"s{k}, " for k in totals),
        zeros=_block(1, [f"t{k} = ZERO" for k in totals]),
        element=_block(2, [*loads, *stores, *(f"t{k} += {name_of(n)}" for k, n in enumerate(program.sums))]),
        strip=_block(
            2,
            [
                *of_strip,
                *loads,
                *stores,
                *(f"s{k}[i] += {name_of(n)}" for k, n in enumerate(program.sums)),
            ],
        ),
        totals=", ".join([*(f"t{k}" for k in totals), "ZERO"]),
        calls=_block(1, [f"k{i} = T(calls[{i}])" for i in range(len(program.calls))]),
        tensor=_block(
            2,
            [
                *says.assigned(of(Kind.TENSOR), lambda name: f"columns[tensor, {column[name]}]"),
                *(f"p{i} = pointers[tensor, {i}]" for i in range(len(place))),
            ],
        ),
        cell=_block(4, of_cell),
        slices="".join(
            f"carray(as_pointer(p{i} + left * {BYTES[kind]}), (right - left,), {kind}), "
            for i, kind in enumerate(arrays.values())
        ),
        sum_slices="".join(f"sums[{k}, first:last], " for k in totals),
        partial=_block(6, [f"partial[item, {k}] += found[{k}]" for k in totals]),
        run=_block(6, [f"sums[{k}, node] += found[{k}]" for k in totals]),
    )


def _cast(value: str, kind: str) -> str:
    return f"{kind}({value})" if kind.startswith("int") else value


def _block(levels: int, lines: Iterable[str]) -> str:
    return indented(levels, lines, empty="pass")
