"""Asking servers: how long to wait, how often to ask again, by how many threads, and whether an object changed."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from strata_sae.stores.errors import StoreError

_LONGEST_PAUSE_SECONDS = 30.0


class NotFound(Exception):
    """The server says that it has no such file."""


class Transient(Exception):
    """It did not work now and may work later: a timeout, a broken connection, an overloaded server."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RangesUnsupported(Exception):
    """The server sent something else than the bytes that were asked for."""


@dataclass(frozen=True)
class RetryPolicy:
    """Limits of one request. A file may take `grace_seconds` and the time its bytes need at the slowest rate."""

    stall_seconds: float = 60.0
    """Without a byte for so long, the connection is given up and made anew."""
    attempts: int = 6
    """In a row, without a byte in between."""
    pause_seconds: float = 0.5
    """Before the second attempt; it doubles with each further one."""
    grace_seconds: float = 300.0
    slowest_bytes_per_second: float = 32_768.0


class Retries:
    """The attempts of one request, of which at least `n_bytes` are expected."""

    def __init__(self, policy: RetryPolicy, where: str, n_bytes: int, stop: threading.Event) -> None:
        self._policy, self._where, self._stop = policy, where, stop
        self._failures = 0
        self._seconds = policy.grace_seconds + n_bytes / policy.slowest_bytes_per_second
        self._deadline = time.monotonic() + self._seconds

    def progressed(self) -> None:
        """Bytes arrived. Raises: StoreError if they come too slowly altogether, or nobody wants them any more."""
        self._failures = 0
        self._check(f"came at less than {self._policy.slowest_bytes_per_second:.0f} bytes a second")

    def failed(self, error: Exception) -> None:
        """Pause before the next attempt. Raises: StoreError if it is not worth another one."""
        self._failures += 1
        if self._failures >= self._policy.attempts:
            raise StoreError(f"{self._where}: {error} ({self._failures} attempts); try again later") from None
        pause = self._policy.pause_seconds * 2 ** (self._failures - 1)
        pause = min(max(pause, getattr(error, "retry_after", 0.0)), _LONGEST_PAUSE_SECONDS)
        self._stop.wait(max(0.0, min(pause, self._deadline - time.monotonic())))
        self._check(str(error))

    def _check(self, reason: str) -> None:
        if self._stop.is_set():
            raise StoreError(f"{self._where}: given up, because another file failed")
        if time.monotonic() > self._deadline:
            raise StoreError(f"{self._where}: {reason}; given up after {self._seconds:.0f} seconds, try again later")


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


class Unchanged:
    """What names the object behind each path, by what was said of it first; for several threads."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def check(self, path: str, identity: str | None, where: str) -> None:
        """Hold `identity` (ETag, time and size) against the first one. None: the server says nothing of it.

        Raises: StoreError if the object was replaced meanwhile.
        """
        if identity is None:
            return
        first = self._first.setdefault(path, identity)  # atomic: the first thread decides
        if first != identity:
            raise StoreError(
                f"{where}/{path}: was replaced while it is read ({first} before, {identity} now); open the store "
                f"again, or pull it: every file of a pulled store is checked whole"
            )
