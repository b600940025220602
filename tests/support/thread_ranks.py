"""Ranks played by threads of this process, for tests of what ranks do together."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from strata_sae.pipeline.sharding.ranks import Ranks, Reduction

Result = TypeVar("Result")


class Table:
    """Where the threads lay down what they exchange."""

    def __init__(self, n: int) -> None:
        self.barrier = threading.Barrier(n)
        self.laid: list[Tensor] = [torch.empty(0)] * n


class ThreadRanks(Ranks):
    """A rank that is a thread."""

    def __init__(self, rank: int, n: int, table: Table) -> None:
        super().__init__(rank, n)
        self._table = table

    def _gather(self, tensor: Tensor) -> Tensor:
        self._table.laid[self.rank] = tensor.clone()
        self._table.barrier.wait()
        together = torch.stack(self._table.laid)
        self._table.barrier.wait()
        return together

    def _reduce(self, tensor: Tensor, how: Reduction) -> None:
        together = self._gather(tensor)
        tensor.copy_(together.sum(0) if how == "sum" else together.amin(0))


def on_ranks(n: int, work: Callable[[Ranks], Result]) -> list[Result]:
    """What `work` gives on each of n ranks. A rank that fails ends the wait of the others."""
    table = Table(n)

    def one(rank: int) -> Result:
        try:
            return work(ThreadRanks(rank, n, table))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(n) as pool:
        waiting = [pool.submit(one, rank) for rank in range(n)]
        failed = [future.exception() for future in waiting]
        first = [error for error in failed if error is not None and not isinstance(error, threading.BrokenBarrierError)]
        if first:
            raise first[0]
        return [future.result() for future in waiting]
