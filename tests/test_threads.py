"""Threads that compiled kernels run on."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest
import torch

import multirate
from multirate.kernels.compiled import cpu, threads


@pytest.fixture
def calls() -> list[int]:
    return []


def counting(calls: list[int]) -> tuple[ctypes._CFuncPtr, int]:
    """A function that notes its argument, and where it is."""
    function = threads.FUNCTION(lambda argument: calls.append(argument or 0))
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return function, address


def test_one_thread_is_this_one(calls: list[int]) -> None:
    kept, address = counting(calls)
    threads.together(address, 7, 1)
    assert calls == [7]
    assert kept is not None


def test_a_pool_serves_where_torch_has_no_threads_to_lend(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_openmp", lambda process: None)
    kept, address = counting(calls)
    threads.together(address, 7, 3)
    assert calls == [7, 7, 7]
    assert kept is not None


def test_threads_of_a_parent_process_are_not_used() -> None:
    assert threads._openmp(os.getpid() + 1) is None


@pytest.mark.skipif(threads._openmp(os.getpid()) is None, reason="torch has another set of threads here")
def test_torch_lends_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    parallel = threads._openmp(os.getpid())
    assert parallel is not None
    monkeypatch.setattr(threads, "_openmp", lambda process: lambda *a: used.append(a[2]) or parallel(*a))
    before, before_of_torch = threading.active_count(), torch.get_num_threads()
    monkeypatch.setattr(cpu, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(cpu, "_CHUNK", 100)
    results = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            parameter = torch.nn.Parameter(torch.linspace(-1, 1, 5000))
            optimizer = multirate.AdamHD([parameter], 1e-2, hyper_lr=1e-4)
            for _ in range(3):
                parameter.grad = parameter.detach() * 2
                optimizer.step()
            results.append((parameter.detach(), optimizer.rates()["global"]))
    finally:
        torch.set_num_threads(before_of_torch)
    assert used
    assert set(used) == {2}
    assert threading.active_count() == before
    # What is summed in which order does not depend on who takes what.
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
