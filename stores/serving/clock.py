"""Does the loader keep up? Seconds and bytes of reading, as one process saw them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class LoaderTotals:
    """What a loader's clock has counted so far."""

    fill_seconds: float = 0.0
    """By the clock, of filling windows."""
    decode_seconds: float = 0.0
    """Of all threads together, of getting blocks: reading, checking, decoding."""
    thread_seconds: float = 0.0
    """fill_seconds times the threads that fill: what decode_seconds is a share of."""
    wait_seconds: float = 0.0
    """That `batch` waited for a window."""
    waits: int = 0
    """How often it waited longer than a millisecond."""
    n_bytes: int = 0
    """Of the rows put into windows, as they are held there."""

    def since(self, before: "LoaderTotals") -> "LoaderTotals":
        """What was added after `before`."""
        return LoaderTotals(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))


class LoaderClock:
    """Adds up a loader's seconds and bytes; its threads share one."""

    def __init__(self, threads: int = 1) -> None:
        self._threads, self._lock = threads, threading.Lock()
        self._sums: dict[str, float] = dict.fromkeys((f.name for f in fields(LoaderTotals)), 0)

    def totals(self) -> LoaderTotals:
        """So far; what is still running is not in it."""
        with self._lock:
            return LoaderTotals(**self._sums)  # type: ignore[arg-type]

    @contextmanager
    def filling(self, n_bytes: int) -> Iterator[None]:
        """A window that takes `n_bytes` is being filled, by all threads together."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self._add(fill_seconds=seconds, thread_seconds=seconds * self._threads, n_bytes=n_bytes)

    def decoded(self, seconds: float) -> None:
        """One thread spent this long on getting blocks."""
        self._add(decode_seconds=seconds)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The reader of batches waits for a window."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self._add(wait_seconds=seconds, waits=int(seconds > 1e-3))

    def _add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount
