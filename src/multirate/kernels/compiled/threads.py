"""Threads that run one function together: those that torch itself uses, where they can be had, else a pool.

Torch's OpenMP threads are awake when a step comes, and another set of threads beside them would have to share their
cores. A pool of our own can take milliseconds to wake.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from multirate.numba_compiler import FUNCTION


def together(function: int, argument: int, threads: int) -> None:
    """Has some threads call a function with the same argument, and waits for all.

    Args:
        function: Address of a C function of one pointer, which never takes the interpreter's lock.
        argument: The pointer.
        threads: How many, this one included.
    """
    if threads == 1:
        FUNCTION(function)(argument)
        return
    parallel = _openmp(os.getpid())
    if parallel is not None:
        parallel(function, argument, threads, 0)
        return
    call = FUNCTION(function)
    others = [_pool(threads).submit(call, argument) for _ in range(1, threads)]
    call(argument)
    for other in others:
        other.result()


@cache
def _openmp(process: int) -> Callable[..., None] | None:
    """``GOMP_parallel`` of the library that torch has loaded; its threads do not survive a fork."""
    if process != _LOADED_BY or "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        found = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # another system's OpenMP has another name for it
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    found.restype = None
    parallel: Callable[..., None] = found
    return parallel


_LOADED_BY = os.getpid()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="multirate")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
