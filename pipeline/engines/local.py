"""The engine of one machine: every worker is a process of its own; a single one is this process."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import torch

from strata_sae.pipeline import stopping
from strata_sae.pipeline.engines import Share, Work, new_run, share_of_environment
from strata_sae.pipeline.engines.devices import VISIBLE, visible_gpus
from strata_sae.pipeline.engines.restarts import SAVE_SECONDS, Restarts, reason_of
from strata_sae.pipeline.errors import ConfigError, StoppedError

log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5
"""Between two calls of `watch`, unless a worker ends."""
_END_SECONDS = 5.0
"""How long a worker may take to end where this process fails or is interrupted, before it is killed."""
_STOPPED = 128 + signal.SIGTERM
"""Exit code of a worker that was asked to end."""


class Local:
    """`n_workers` processes that share this machine's threads and GPUs evenly. One worker works in this process."""

    def __init__(self, n_workers: int = 1, device: str = "auto") -> None:
        """Raises: ConfigError for less than one worker.

        device: as the config names it, for what is to be done.
        """
        if n_workers < 1:
            raise ConfigError(f"--workers: {n_workers} is not allowed; use 1 or more")
        self.n_workers = n_workers
        self._device = device

    @property
    def in_process(self) -> bool:
        """Whether there is one worker."""
        return self.n_workers == 1

    def run(self, work: Work, watch: Callable[[], int]) -> list[str]:
        """Call `work` in every worker; see `Engine.run`. No process outlives this call or this process."""
        if self.in_process:
            work(share_of_environment())
            return []
        n_threads = max(1, torch.get_num_threads() // self.n_workers)
        # Sums are split over threads, so the number of threads decides the last bits of every result.
        log.info(
            "%d workers of %d threads each: equal results need equal numbers of threads", self.n_workers, n_threads
        )
        first = Share(of=self.n_workers, run=new_run(), here=self.n_workers)
        workers = [
            _Worker(_Place(work, replace(first, index=index), n_threads, gpu))
            for index, gpu in enumerate(visible_gpus(self.n_workers, self._device))
        ]
        with stopping.between_steps():
            try:
                return _run_all(workers, watch)
            finally:
                _end(workers, SAVE_SECONDS if stopping.asked() else _END_SECONDS)


class _Place(NamedTuple):
    """What a worker process is given."""

    work: Work
    share: Share
    n_threads: int
    gpu: str | None


class _Worker:
    """One of the shares; the process that works on it now, and the pipe through which it says why it failed."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self.index, self.name = place.share.index, f"worker {place.share.index + 1}"
        self.process: BaseProcess | None = None

    def start(self) -> int:
        """Start a process. Returns: its sentinel."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks that other threads hold
        self._reasons, to_parent = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(self._place, to_parent), daemon=True)
        self.process.start()
        to_parent.close()
        return self.process.sentinel

    def ended(self) -> tuple[str | None, bool]:
        """Why the process did not end well, None if it did; and whether it died, so that it may be started again."""
        assert self.process is not None
        self.process.join()
        code = self.process.exitcode or 0
        with self._reasons:
            if code == 0:
                return None, False
            try:
                return str(self._reasons.recv()), False
            except EOFError:
                pass
        if code == _STOPPED:
            return "was asked to end (SIGTERM)", True
        return (f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"), code < 0


def _work(place: _Place, to_parent: Connection) -> None:
    """What a worker process runs."""
    if place.gpu is not None:
        os.environ[VISIBLE] = place.gpu  # read when CUDA is initialised, which nothing has done yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("strata_sae").setLevel(logging.WARNING)
    torch.set_num_threads(place.n_threads)
    try:
        stopping.listen()
        place.work(place.share)
    except StoppedError:
        sys.exit(_STOPPED)
    except Exception as error:
        to_parent.send(reason_of(error))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # like a kill: items are idempotent, so a kill at any moment loses no more than time


def _run_all(workers: Sequence[_Worker], watch: Callable[[], int]) -> list[str]:
    """Start the workers, those that die again, and return when all have ended. Returns: reasons, as `Engine.run`."""
    running = {worker.start(): worker for worker in workers}
    restarts = Restarts()
    while running and not stopping.asked():
        ready = wait(list(running), timeout=_WATCH_SECONDS)
        done = watch()
        for worker in [running.pop(sentinel) for sentinel in ready if isinstance(sentinel, int)]:
            why, died = worker.ended()
            if restarts.again(worker.index, worker.name, why, died=died, done=done):
                running[worker.start()] = worker
    return restarts.reasons


def _end(workers: Sequence[_Worker], seconds: float) -> None:
    """Ask all that are alive to end; kill those that have not after so many seconds, all together."""
    alive = [worker.process for worker in workers if worker.process is not None and worker.process.is_alive()]
    for process in alive:
        process.terminate()
    until = time.monotonic() + seconds
    for process in alive:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
