"""The engine of one machine: every item runs in a process of its own, as many at a time as there are workers."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Generic

import torch

from strata_sae.pipeline.engines import ItemT
from strata_sae.pipeline.errors import ConfigError
from strata_sae.stores import StoreError

log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5
"""Between two calls of `watch`, unless a worker ends."""
_STOP_SECONDS = 5.0
"""How long a worker may take to end when it is asked to, before it is killed."""


class Local:
    """`n_workers` processes that share this machine's threads evenly. With one worker, items run in this process."""

    def __init__(self, n_workers: int = 1) -> None:
        """Raises: ConfigError for less than one worker."""
        if n_workers < 1:
            raise ConfigError(f"--workers: {n_workers} is not allowed; use 1 or more")
        self.n_workers = n_workers

    def map(self, work: Callable[[ItemT], None], items: Sequence[ItemT], watch: Callable[[], None]) -> list[str]:
        """Run `work(item)` for every item; see `Engine.map`. No process outlives this call or this process."""
        if self.n_workers == 1:
            for item in items:
                work(item)
            return []
        n_threads = max(1, torch.get_num_threads() // self.n_workers)
        # Sums are split over threads, so the number of threads decides the last bits of every result.
        log.info(
            "%d workers of %d threads each: equal results need equal numbers of threads", self.n_workers, n_threads
        )
        workers = [_Worker(number, work, item, n_threads) for number, item in enumerate(items, start=1)]
        try:
            _run_all(workers, self.n_workers, watch)
        finally:
            _stop(workers)
        return [reason for worker in workers if (reason := worker.reason())]


class _Worker(Generic[ItemT]):
    """One process for one item, and the pipe through which it says why it failed."""

    def __init__(self, number: int, work: Callable[[ItemT], None], item: ItemT, n_threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks that other threads hold
        self._reasons, self._to_parent = context.Pipe(duplex=False)
        self.number = number
        self.process = context.Process(
            target=_work, args=(work, item, n_threads, self._to_parent), name=f"strata-worker-{number}", daemon=True
        )

    def reason(self) -> str | None:
        """Why its item did not end well; None if it did."""
        self._to_parent.close()
        code = self.process.exitcode or 0
        if code == 0:
            return None
        try:
            why = str(self._reasons.recv())
        except EOFError:
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"worker {self.number}: {why}"


def _work(work: Callable[[ItemT], None], item: ItemT, n_threads: int, to_parent: Connection) -> None:
    """What a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("strata_sae").setLevel(logging.WARNING)
    torch.set_num_threads(n_threads)
    try:
        work(item)
    except (ConfigError, StoreError, OSError) as error:
        to_parent.send(str(error))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # like a kill: items are idempotent, so a kill at any moment loses no more than time


def _run_all(workers: list[_Worker[ItemT]], n_at_once: int, watch: Callable[[], None]) -> None:
    """Start the workers, `n_at_once` at a time, and return when all have ended."""
    waiting = workers[::-1]
    running: dict[int, _Worker[ItemT]] = {}
    while waiting or running:
        while waiting and len(running) < n_at_once:
            worker = waiting.pop()
            worker.process.start()
            running[worker.process.sentinel] = worker
        for sentinel in wait(list(running), timeout=_WATCH_SECONDS):
            assert isinstance(sentinel, int)
            ended = running.pop(sentinel)
            ended.process.join()
            if ended.process.exitcode:
                log.warning("worker %d ended early; %d are left", ended.number, len(running) + len(waiting))
        watch()


def _stop(workers: list[_Worker[ItemT]]) -> None:
    started = [worker.process for worker in workers if worker.process.pid is not None]
    for process in started:
        if process.is_alive():
            process.terminate()
    for process in started:
        process.join(_STOP_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
