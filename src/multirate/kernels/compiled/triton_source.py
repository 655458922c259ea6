"""A program as source code for Triton."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from multirate.kernels.compiled.programs import LIVE, PARAMETER, Program
from multirate.kernels.compiled.statements import Statements, indented
from multirate.kernels.compiled.symbols import Kind
from multirate.kernels.rounding import MULTIPLIERS, SHORT, number

FIELDS = ("tensor", "base", "C", "D", "b0", "b1", "c0", "d0", "d1", "cell", "place")
"""What an item says: its tensor, how many elements lie before its run of cells, the sizes of that, which b, c and d are
its own, the cell of c = 0, and where the sum of c = c0 goes."""

TYPES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int8: "int8",
}

_OPERATIONS = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "abs": "tl.abs({})",
    "sqrt": "tl.sqrt({})",
    "exp": "tl.exp({})",
    "finite": "tl.abs({}) < float('inf')",
    "sign": "({0} > 0.0).to({T}) - ({0} < 0.0).to({T})",
    # What is not a number stays so, as it does in torch.
    "minimum": "tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "maximum": "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    "greater": "{} > {}",
    "where": "tl.where({}, {}, {})",
}
_EXACT = {"div": "tl.div_rn({}, {})", "sqrt": "tl.sqrt_rn({})"}
"""In float32 Triton's own are not rounded correctly; in float64 they are."""

_TEMPLATE = """
def kernel({arguments}COLUMNS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, ALIGNED: tl.constexpr):
    item = items + tl.program_id(0).to(tl.int64) * {fields}
{item}
    if ALIGNED:
        base = tl.multiple_of(base, 16)
        if COLUMNS:
            C = tl.multiple_of(C, 16)
            c0 = tl.multiple_of(c0, 16)
        else:
            D = tl.multiple_of(D, 16)
            d0 = tl.multiple_of(d0, 16)
            d1 = tl.multiple_of(d1, 16)
{pointers}
{tensor}
    i = tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, COLS)[None, :]
    if COLUMNS:
        c = c0 + j
    else:
        c = c0 + i
    node = cell + c
    own = c < C
{cell}
{zeros}
    for b in range(b0, b1, ROWS if COLUMNS else 1):
        for d in range(d0, d1, 1 if COLUMNS else COLS):
            if COLUMNS:
                at = base + (b + i) * C + c
                mask = own & (b + i < b1)
            else:
                at = base + (b * C + c) * D + d + j
                mask = own & (d + j < d1)
{element}
{sums}
"""

_SUM = """
    if COLUMNS:
        r{k} = tl.sum(s{k}, axis=0)
    else:
        r{k} = tl.sum(s{k}, axis=1)
    lane = tl.arange(0, COLS if COLUMNS else ROWS)
    tl.store(out + (place + lane) * {count} + {k}, r{k}.to(tl.float64), mask=c0 + lane < C)"""

GATHER = """
def kernel(out, cells, SUMS: tl.constexpr, LANES: tl.constexpr):
    row = cells + tl.program_id(0).to(tl.int64) * 4
    cell = tl.load(row)
    first = tl.load(row + 1)
    count = tl.load(row + 2)
    stride = tl.load(row + 3)
    k = tl.program_id(1)
    lane = tl.arange(0, LANES)
    total = tl.zeros((LANES,), tl.float64)
    for start in range(0, count, LANES):
        part = start + lane
        total += tl.load(out + (first + part * stride) * SUMS + k, mask=part < count, other=0.0)
    tl.store(out + cell * SUMS + k, tl.sum(total, axis=0))
"""
"""Adds up cells that several items have a share of: one program a cell and sum, in the same order every time."""


def rounded(program: Program, arrays: Mapping[str, torch.dtype]) -> list[str]:
    """State that is kept short, rounded at random (see :mod:`multirate.kernels.rounding`)."""
    return [name for name in program.stores if name != PARAMETER and arrays[name] == SHORT]


def arguments(program: Program, arrays: Mapping[str, torch.dtype]) -> list[str]:
    """What the kernel of a program is called with, in this order, before the sizes of its tiles."""
    given = {
        "seeds": rounded(program, arrays),
        "columns": program.columns,
        "calls": program.calls,
        "out": program.sums,
    }
    cells = [f"cells{i}" for i in range(len(program.cells))]
    return ["table", "items", *cells, *(name for name, wanted in given.items() if wanted)]


def source(program: Program, arrays: Mapping[str, torch.dtype], dtype: torch.dtype) -> str:
    """The kernel of a program.

    A tile is ``ROWS × COLS``. A row is a cell and the tile moves along d (and b); or, with ``COLUMNS``, where D is 1, a
    column is a cell and the tile moves along b: neighbouring threads take neighbouring elements either way.

    A program that is told whether the step is live stores nothing but the parameter where it is not.

    Args:
        program: What is done to an element.
        arrays: Type of every elementwise tensor by name, those that elements are written to (``element0`` ...) last.
        dtype: Precision of the arithmetic.
    """
    T = f"tl.{TYPES[dtype]}"
    chosen = {**_OPERATIONS, **(_EXACT if dtype == torch.float32 else {})}
    says = Statements(
        program,
        {operation: expression.replace("{T}", T) for operation, expression in chosen.items()},
        constant=lambda value: f"tl.full((1, 1), {value!r}, {T})",
        loaded=lambda value: f"tl.load({value}).to({T})",
    )
    of, name_of = says.of, says.name
    place = {name: f"p{i}" for i, name in enumerate(arrays)}
    column = {name: i for i, name in enumerate(program.columns)}
    given = {name: i for i, name in enumerate(program.cells)}

    random = rounded(program, arrays)
    starts = ["seed = tl.load(seeds + tensor).to(tl.uint32, bitcast=True)"] if random else []
    for name in random:
        start = f"h_{place[name]}"
        starts += [f"{start} = seed + {_bits(number(name))}", *_mixed(start)]
    alive = [node for node in of(Kind.TENSOR) if node.operation == "input" and node.arguments[0] == LIVE]
    tile = [*says.assigned(of(Kind.ELEMENT), lambda name: f"{place[name]} + at, mask=mask, other=0.0")]
    if alive and program.stores:
        tile.append(f"changes = mask & ({name_of(alive[0])} > tl.full((1, 1), 0.0, {T}))")
    written = {**program.stores, **{f"element{k}": node for k, node in enumerate(program.elements)}}
    for name, node in written.items():
        where = "changes" if alive and name in program.stores and name != PARAMETER else "mask"
        value = name_of(node) if node.kind is Kind.ELEMENT else f"tl.broadcast_to({name_of(node)}, (ROWS, COLS))"
        if name in random:
            tile += [f"h = at.to(tl.uint32) ^ h_{place[name]}", *_mixed("h")]
            tile.append(f"h = (({value}).to(tl.uint32, bitcast=True) + (h >> 16)) & {_bits(0xFFFF0000)}")
            value = "h.to(tl.float32, bitcast=True)"
        tile.append(f"tl.store({place[name]} + at, ({value}).to(tl.{TYPES[arrays[name]]}), mask={where})")
    tile += [f"s{k} += tl.where(mask, {name_of(node)}, 0.0)" for k, node in enumerate(program.sums)]
    return _TEMPLATE.format(
        arguments="".join(f"{name}, " for name in arguments(program, arrays)),
        fields=len(FIELDS),
        item=indented(1, [f"{name} = tl.load(item + {i})" for i, name in enumerate(FIELDS)]),
        pointers=indented(
            1,
            [
                line
                for i, (name, p) in enumerate(place.items())
                for line in (
                    f"{p} = tl.load(table + tensor * {len(place)} + {i}).to(tl.pointer_type(tl.{TYPES[arrays[name]]}))",
                    "if ALIGNED:",
                    f"    {p} = tl.multiple_of({p}, 16)",
                )
            ],
        ),
        tensor=indented(
            1,
            [
                *starts,
                *(f"k{i} = tl.load(calls + {i})" for i in range(len(program.calls))),
                *says.assigned(of(Kind.TENSOR), lambda name: f"columns + tensor * {len(column)} + {column[name]}"),
            ],
        ),
        cell=indented(1, says.assigned(of(Kind.CELL), lambda name: f"cells{given[name]} + node, mask=own, other=0.0")),
        zeros=indented(1, [f"s{k} = tl.zeros((ROWS, COLS), {T})" for k in range(len(program.sums))]),
        element=indented(3, tile),
        sums="".join(_SUM.format(k=k, count=len(program.sums)) for k in range(len(program.sums))),
    )


def _mixed(x: str) -> list[str]:
    """The hash of :mod:`multirate.kernels.rounding`."""
    first, second = MULTIPLIERS
    return [
        f"{x} = ({x} ^ ({x} >> 16)) * {_bits(first)}",
        f"{x} = ({x} ^ ({x} >> 15)) * {_bits(second)}",
        f"{x} = {x} ^ ({x} >> 16)",
    ]


def _bits(value: int) -> str:
    return f"tl.full((1, 1), {value}, tl.uint32)"
