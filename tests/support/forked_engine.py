"""An engine whose workers are forks of the test's process, which import nothing anew; some die where a test says."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

from strata_sae.pipeline.engines import Share, Work

FORK = multiprocessing.get_context("fork")
STEPS = ("fsync", "rename", "replace", "link", "unlink", "rmdir", "mkdir")


class Forked:
    """Workers are called with what a pickle of their work holds."""

    in_process = False

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers

    def run(self, work: Work, watch: Callable[[], int]) -> list[str]:
        """All at once; a line for each that did not end with 0."""
        data = pickle.dumps(work)
        shares = [Share(index, self.n_workers, "run", self.n_workers) for index in range(self.n_workers)]
        workers = [FORK.Process(target=_work, args=(data, share)) for share in shares]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        watch()
        return [f"worker {i}: {worker.exitcode}" for i, worker in enumerate(workers, 1) if worker.exitcode]


def _work(data: bytes, share: Share) -> None:
    pickle.loads(data)(share)


def lives(work: Callable[[], Any], dies_at: int | None = None) -> tuple[int, int]:
    """Run `work` in a fork that kills itself (-9) at that step of its file system. Returns: exit code, steps made."""
    counted = FORK.Value("i", 0)

    def run() -> None:
        main = threading.main_thread()

        def stepping(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                if threading.current_thread() is main:
                    counted.value += 1
                    if counted.value == dies_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        with mock.patch.multiple("os", **{name: stepping(getattr(os, name)) for name in STEPS}):
            work()

    worker = FORK.Process(target=run)
    worker.start()
    worker.join()
    return worker.exitcode or 0, counted.value
