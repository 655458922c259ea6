"""Source compiled by Numba, and kept on disk for the processes to come.

What was compiled is looked up in the folder ``kernels`` where :func:`multirate.cache_folder.cache_folder` says (in that
of ``NUMBA_CACHE_DIR``, if Numba was told to keep everything there). It can be deleted at any time. Without a folder
that can be written to, or where others may write too, every process compiles for itself: what is kept is executed.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import linecache
import logging
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from multirate.cache_folder import cache_folder

__all__ = ["FUNCTION", "available", "compiled"]

FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""What is compiled: a function of C that takes one pointer."""

_BLOCK = 1 << 12
"""Elements summed in the precision of the arithmetic; the sums of blocks are added in float64."""
_TYPES = ("int8", "int64", "float32", "float64")
_SEPARATE = ("block", "strip")
"""Functions whose arguments do not lie in the same memory."""
_FAST = {"reassoc", "contract", "arcp", "nsz"}
"""Liberties of the compiler: all of "fast" but to assume that nothing is NaN or infinite, which is what sums tell."""

_OPTIONS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "USING_SVML")
"""Settings of Numba that make other code of the same source."""

logger = logging.getLogger(__name__)

_held: list[Any] = []
"""Compiled functions, which have to stay where they are."""

try:
    # Read at once: what is compiled later is still compiled by this, whatever has been installed meanwhile.
    _this_source: str | None = Path(__file__).read_text()
except OSError:
    _this_source = None


@cache
def available() -> bool:
    """Whether Numba is there and works with what else is installed."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def compiled(text: str, dtype: str, exact: bool = False) -> int:
    """Where the function ``entry(data)`` of a source is: a :data:`FUNCTION` that needs no lock of Python's.

    Args:
        text: The source of functions, each after those it calls; ``entry`` is the last. They find the types of
            ``_TYPES``, ``T`` the precision, ``ZERO``, ``INF``, ``BLOCK``, ``sqrt``, ``exp``, ``ceil``, ``carray``,
            ``as_pointer`` and ``taken``.
        dtype: Precision of the arithmetic.
        exact: Take no liberties: every operation is rounded, and in this order.
    """
    key = _key(text, dtype, exact)
    entry = _kept(text, dtype, exact, key)
    if entry is None:
        name = f"<multirate kernel {len(linecache.cache)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        entry = _compiled(_function(text, dtype, exact, key, name), keep=False)
    _held.append(entry)
    address: int = entry.address
    return address


def _key(text: str, dtype: str, exact: bool) -> str:
    """Another one for whatever is compiled otherwise, or for another processor."""
    import llvmlite
    import numba
    from numba.core.registry import cpu_target

    options = [getattr(numba.config, name, None) for name in _OPTIONS]
    target = cpu_target.target_context.codegen().magic_tuple()
    how = (
        text,
        dtype,
        str(exact),
        numba.__version__,
        llvmlite.__version__,
        repr(options),
        repr(target),
        str(_this_source),
    )
    return hashlib.sha256(chr(0).join(map(str, how)).encode()).hexdigest()[:24]


def _kept(text: str, dtype: str, exact: bool, key: str) -> Any:
    """The function from disk, compiled and put there if need be; ``None`` where nothing can be kept."""
    if _this_source is None:
        return None
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder)
        # Numba keeps nothing without a file of the source, whose contents tell it whether what it has is still right.
        _write_once(folder / f"{key}.py", text)
    except (ImportError, OSError, RuntimeError) as error:
        logger.info("Compiled kernels are not kept: %s", error)
        return None
    function = _function(text, dtype, exact, key, str(folder / f"{key}.py"))
    try:
        return _compiled(function, keep=True)
    except Exception as error:  # a damaged file fails in as many ways as it has bytes
        logger.info("The kernel kept as %s is made anew: %s", folder / key, error)
        from numba.core.caching import FunctionCache

        with contextlib.suppress(Exception):
            FunctionCache(function).flush()
        return None


def _check_owner(folder: Path) -> None:
    """Raises ``PermissionError`` where someone else could put code that this process would execute."""
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise PermissionError(f"others may write to {folder}")


def _write_once(file: Path, text: str) -> None:
    if file.exists():
        return
    # Written beside it and then renamed: other processes see the whole file or none.
    with tempfile.TemporaryDirectory(dir=file.parent) as aside:
        written = Path(aside) / file.name
        written.write_text(text)
        os.replace(written, file)


def _function(text: str, dtype: str, exact: bool, key: str, name: str) -> Callable[..., None]:
    """The function ``entry`` of the source in a file of this name, to be compiled."""
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
        "ceil": np.ceil,
        "carray": numba.carray,
        "as_pointer": as_pointer,
        "taken": taken,
        **{kind: getattr(numba, kind) for kind in _TYPES},
    }
    exec(compile(text, name, "exec"), scope)
    functions = [function for function in scope.values() if getattr(function, "__globals__", None) is scope]
    options: dict[str, Any] = {"nogil": True, "fastmath": False if exact else _FAST, "error_model": "numpy"}
    for function in functions:
        # Numba tells functions of one name apart by a count that begins anew in every process: without names of their
        # own, kernels kept by two processes would be one to a third.
        own = function.__name__
        function.__qualname__ = f"{own}_{key}"
        if own != "entry":
            apart = {"pipeline_class": Separate} if own in _SEPARATE else {}
            scope[own] = numba.njit(function, no_cpython_wrapper=True, **apart, **options)
    entry: Callable[..., None] = scope["entry"]
    return entry


def _compiled(function: Callable[..., None], keep: bool) -> Any:
    import numba
    from numba.core import types

    return numba.cfunc(types.void(types.voidptr), cache=keep)(function)
