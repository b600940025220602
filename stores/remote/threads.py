"""The same work on many files, by a few threads."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
N_THREADS = 8


def in_threads(work: Callable[[T], None], items: Iterable[T], stop: threading.Event) -> None:
    """Do `work` on every item. The first failure, also Ctrl-C, sets `stop`, cancels the rest and is raised."""
    with ThreadPoolExecutor(N_THREADS, thread_name_prefix="store-transfer") as pool:
        jobs = [pool.submit(work, item) for item in items]
        try:
            wait(jobs, return_when=FIRST_EXCEPTION)
            failed = [job for job in jobs if job.done() and job.exception() is not None]
            if failed:
                stop.set()
                failed[0].result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
