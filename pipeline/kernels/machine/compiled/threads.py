"""Compiled loops by several threads: each takes the next few rows until none are left, so no thread waits long.

Who took which rows changes nothing: a row's result is computed by one thread, in one order.
"""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def over_rows(loop: Callable[..., Any], n_rows: int, rows_at_once: int, *arguments: Any) -> list[Any]:
    """Call loop(start, stop, *arguments), which must release the GIL, on stretches that cover all rows.

    As many threads work as PyTorch would use. Returns: what the calls returned, in the order of their rows.
    """
    starts = range(0, n_rows, rows_at_once)
    results: list[Any] = [None] * len(starts)
    left = deque(enumerate(starts))

    def work() -> None:
        while left:
            try:
                number, start = left.popleft()
            except IndexError:  # another thread was quicker
                return
            results[number] = loop(start, min(start + rows_at_once, n_rows), *arguments)

    n_others = min(torch.get_num_threads(), len(starts)) - 1
    others = [_pool(n_others).submit(work) for _ in range(n_others)]
    try:
        work()
    finally:
        left.clear()  # after an error nobody writes any more once this has returned
        wait(others)
    for other in others:
        other.result()
    return results


def array(tensor: Tensor) -> Any:
    """A CPU tensor's memory as a NumPy array, which loops take; copied only if it is not contiguous."""
    return tensor.detach().contiguous().numpy()


def _pool(n_threads: int) -> ThreadPoolExecutor:
    if n_threads not in _pools:
        _pools[n_threads] = ThreadPoolExecutor(n_threads, thread_name_prefix="compiled")
    return _pools[n_threads]
