"""Several processes on this machine that fill one store. None of them leads: they meet in the store alone.

Processes on other machines that share the folder may join at any time by running the same command.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import extract, fill_and_finish, to_fill
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import StoreError
from strata_sae.stores.format.commits import committed_units
from strata_sae.stores.format.plan import MANIFEST, Plan
from strata_sae.stores.format.plan_file import read_plan

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0


def extract_with_workers(config: RunConfig, n_workers: int, *, show_progress: bool = True) -> None:
    """`extract` by `n_workers` processes, which share this machine's threads evenly; 1: in this process.

    A worker that dies is no failure as long as another one is left: its unit is filled again.
    Raises: ConfigError, or StoreError if the store is not finished when all workers have ended, with their reasons.
    """
    if n_workers < 1:
        raise ConfigError(f"--workers: {n_workers} is not allowed; use 1 or more")
    if n_workers == 1:
        extract(config, show_progress=show_progress)
        return
    plan = to_fill(config, show_progress=show_progress)
    if plan is not None:
        _run(config.model, config.store_path(), plan, n_workers, show_progress)


def _run(settings: ModelSettings, path: Path, plan: Plan, n_workers: int, show_progress: bool) -> None:
    n_threads = max(1, torch.get_num_threads() // n_workers)
    log.info(
        "%s: %d workers, %d threads each (stores are equal to the last byte where that number is)",
        path,
        n_workers,
        n_threads,
    )
    workers = [_Worker(number, settings, path, n_threads) for number in range(1, n_workers + 1)]
    try:
        for worker in workers:
            worker.process.start()
        _watch(workers, path, plan, show_progress)
    finally:
        _stop(workers)
    if not (path / MANIFEST).is_file():
        missing = plan.n_units - len(committed_units(path, plan))
        raise StoreError(
            f"{path}: all workers have ended, and {missing} of {plan.n_units} units are missing: "
            f"{'; '.join(worker.reason() for worker in workers)}. "
            f"When that is mended, run the same command again: what is there is kept"
        )
    log.info("%s: finished, %s rows", path, f"{plan.n_rows:,}")


class _Worker:
    """One process, and the way it says what went wrong."""

    def __init__(self, number: int, settings: ModelSettings, path: Path, n_threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks that other threads hold
        self._reasons, reasons = context.Pipe(duplex=False)
        self._theirs = reasons
        self.number = number
        self.process: BaseProcess = context.Process(
            target=_work,
            args=(fill_and_finish, settings, path, n_threads, reasons),
            name=f"strata-worker-{number}",
            daemon=True,
        )

    def reason(self) -> str:
        """Why it ended."""
        self._theirs.close()
        try:
            why = str(self._reasons.recv())
        except EOFError:
            code = self.process.exitcode or 0
            why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"worker {self.number}: {why}"


def _work(fill: Callable[..., None], settings: ModelSettings, path: Path, n_threads: int, reasons: Connection) -> None:
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the first one decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("strata_sae").setLevel(logging.WARNING)
    torch.set_num_threads(n_threads)
    try:
        fill(settings, path, read_plan(path), show_progress=False)
    except (ConfigError, StoreError, OSError) as error:
        reasons.send(str(error))
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # as a kill would, which the store survives at any moment


def _watch(workers: list[_Worker], path: Path, plan: Plan, show_progress: bool) -> None:
    """Show how far they are together, until all have ended."""
    done = committed_units(path, plan)
    with Progress("extract", plan.n_rows, "token", start=_rows(plan, done), shown=show_progress) as bar:
        running = {worker.process.sentinel: worker for worker in workers}
        while running:
            for sentinel in wait(list(running), timeout=_LOOK_SECONDS):
                assert isinstance(sentinel, int)
                ended = running.pop(sentinel)
                ended.process.join()
                if ended.process.exitcode:
                    log.warning("worker %d has died; %d are left", ended.number, len(running))
            now = committed_units(path, plan)
            bar.advance(_rows(plan, now - done))
            done = now


def _stop(workers: list[_Worker]) -> None:
    started = [worker.process for worker in workers if worker.process.pid is not None]
    for process in started:
        if process.is_alive():
            process.terminate()
    for process in started:
        process.join(_PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _rows(plan: Plan, units: set[int]) -> int:
    return sum(stop - start for start, stop in map(plan.unit_rows, units))
