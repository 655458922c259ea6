"""Source compiled by Numba, and kept on disk for the processes to come.

What a kernel was compiled from once is looked up in the folder that ``MULTIRATE_CACHE`` names, otherwise in the user's
cache folder for this program. It can be deleted at any time; without a folder that can be written to, every process
compiles for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import linecache
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from multirate.cache_folder import cache_folder
from multirate.kernels.compiled.numba_source import BYTES

__all__ = ["compiled"]

_BLOCK = 1 << 12
"""Elements summed in the precision of the arithmetic; the sums of blocks are added in float64."""
_FAST = {"reassoc", "contract", "arcp", "nsz"}
"""Liberties of the compiler: all of "fast" but to assume that nothing is NaN or infinite, which is what sums tell."""

_held: list[Any] = []
"""Compiled functions, which have to stay where they are."""


@cache
def compiled(text: str, dtype: str) -> int:
    """Where the function ``entry(data)`` of a source is.

    Args:
        text: The source, see :func:`multirate.kernels.compiled.numba_source.source`.
        dtype: Precision of the arithmetic.
    """
    entry = _from_disk(text, dtype)
    if entry is None:
        name = f"<multirate kernel {len(linecache.cache)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        entry = _entry(text, dtype, name, kept=False)
    _held.append(entry)
    address: int = entry.address
    return address


def _from_disk(text: str, dtype: str) -> Any:
    """The function, compiled unless it was before; None where nothing can be kept."""
    file = None
    try:
        file = cache_folder() / "kernels" / _file_name(text, dtype)
        _write_once(file, text)
        return _entry(text, dtype, str(file), kept=True)
    except Exception:  # nowhere to write to, or a damaged file, which fails in as many ways as it has bytes
        with contextlib.suppress(OSError):
            for damaged in file.parent.glob(f"**/{file.stem}.*") if file else ():
                damaged.unlink()
        return None


def _file_name(text: str, dtype: str) -> str:
    """Another name for whatever is compiled otherwise; Numba itself tells one kind of processor from another."""
    import numba

    how = [text, dtype, numba.__version__, Path(__file__).read_text()]
    return f"{hashlib.sha256(chr(0).join(how).encode()).hexdigest()[:24]}.py"


def _write_once(file: Path, text: str) -> None:
    if file.exists():
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Written beside it and then renamed: other processes see the whole file or none.
    with tempfile.TemporaryDirectory(dir=file.parent) as aside:
        written = Path(aside) / file.name
        written.write_text(text)
        os.replace(written, file)


def _entry(text: str, dtype: str, name: str, kept: bool) -> Any:
    """Numba's function for the source in a file of this name."""
    import numba
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.core.compiler import Compiler
    from numba.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def as_pointer(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(address), emit

    @intrinsic  # type: ignore[untyped-decorator]
    def taken(typing_context: Any, address: Any) -> Any:
        """Counts one up, whichever thread asks, and returns what it was."""

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = ir.IntType(64)
            place = builder.inttoptr(arguments[0], number.as_pointer())
            return builder.atomic_rmw("add", place, ir.Constant(number, 1), "monotonic")

        return types.int64(address), emit

    class Separate(Compiler):  # type: ignore[misc]
        """Takes arrays for separate, without which a loop that stores several of them is not vectorised."""

        def define_pipelines(self) -> Any:
            self.state.flags.noalias = True
            return super().define_pipelines()

    scope: dict[str, Any] = {
        "__name__": __name__,
        "T": getattr(numba, dtype),
        "ZERO": getattr(np, dtype)(0.0),
        "BLOCK": _BLOCK,
        "INF": getattr(np, dtype)(np.inf),
        "sqrt": np.sqrt,
        "exp": np.exp,
        "carray": numba.carray,
        "as_pointer": as_pointer,
        "taken": taken,
        "int64": numba.int64,
        **{kind: getattr(numba, kind) for kind in BYTES},
    }
    exec(compile(text, name, "exec"), scope)
    options: dict[str, Any] = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
    for inner in ("block", "strip"):
        scope[inner] = numba.njit(scope[inner], pipeline_class=Separate, no_cpython_wrapper=True, **options)
    scope["kernel"] = numba.njit(scope["kernel"], no_cpython_wrapper=True, **options)
    return numba.cfunc(types.void(types.voidptr), cache=kept)(scope["entry"])
