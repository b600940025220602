"""Windows of mixed rows in memory: a window is filled block by block, each row copied once, to its mixed place."""

import mmap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from strata_sae.stores.reading.masks import RowMask
from strata_sae.stores.reading.site_rows import SiteRows

_READ_AHEAD_BLOCKS = 4


@dataclass
class LoaderTotals:
    """What a loader's clock has counted so far."""

    fill_seconds: float = 0.0
    """Wall time of filling windows."""
    decode_seconds: float = 0.0
    """Of all threads together, spent on getting blocks: reading, checking, decoding."""
    thread_seconds: float = 0.0
    """fill_seconds times the number of filling threads: what decode_seconds is a share of."""
    wait_seconds: float = 0.0
    """Spent by `batch` in waiting for a window."""
    waits: int = 0
    """Waits longer than a millisecond (count)."""
    n_bytes: int = 0
    """Bytes of the rows put into windows, as a window holds them."""

    def since(self, before: "LoaderTotals") -> "LoaderTotals":
        """What was added after `before`."""
        return LoaderTotals(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


class LoaderClock:
    """Adds up the seconds and bytes of a loader, whose threads share the clock."""

    def __init__(self, threads: int = 1) -> None:
        self._threads, self._lock, self._totals = threads, threading.Lock(), LoaderTotals()

    def totals(self) -> LoaderTotals:
        """The sums so far, without what is still running."""
        with self._lock:
            return replace(self._totals)

    @contextmanager
    def filling(self, n_bytes: int) -> Iterator[None]:
        """All threads together fill a window with `n_bytes` of rows."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        with self._lock:
            self._totals.fill_seconds += seconds
            self._totals.thread_seconds += seconds * self._threads
            self._totals.n_bytes += n_bytes

    def decoded(self, seconds: float) -> None:
        """One thread spent this long on getting blocks."""
        with self._lock:
            self._totals.decode_seconds += seconds

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """`batch` waits for a window."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        with self._lock:
            self._totals.wait_seconds += seconds
            self._totals.waits += seconds > 1e-3


class WindowBuffer(NamedTuple):
    """Memory for one window, allocated once. Its last row is spare: rows that do not pass the filters go there."""

    rows: np.ndarray
    """Coded rows; see `SiteRows`."""
    numbers: np.ndarray
    scales: np.ndarray | None


Filling = Callable[[int], Callable[[WindowBuffer], None]]
"""From the number of a window, counted over all epochs, to what fills a buffer with it (in any thread)."""


class Windows(Protocol):
    """The windows of an endless stream, one at a time."""

    def get(self, window: int) -> WindowBuffer:
        """The filled buffer of a window, valid until the next call. The call also begins to fill window + 1."""

    def close(self) -> None:
        """Release every window."""


class _Piece(NamedTuple):
    """A block of a window, and the slice of the window's mix that gives the places of its rows."""

    block: int
    targets: slice
    ahead: int | None
    """A later block, whose reading is started meanwhile."""


class WindowFiller:
    """Copies blocks of one site into window buffers, with several threads."""

    def __init__(
        self, values: SiteRows, mask: RowMask, pool: ThreadPoolExecutor, threads: int, clock: LoaderClock
    ) -> None:
        self._values, self._mask, self._pool, self._threads, self._clock = values, mask, pool, threads, clock
        self._stopped = False

    def stop(self) -> None:
        """Stop the fill that is running; its `fill` raises CancelledError."""
        self._stopped = True

    def buffer_bytes(self, n_blocks: int) -> int:
        """Memory of a buffer for `n_blocks` blocks (bytes)."""
        return sum(n_bytes for *_, n_bytes in self._layout(n_blocks))

    def buffer_in(self, memory: np.ndarray, n_blocks: int) -> WindowBuffer:
        """A buffer that lies in `memory` (uint8, of `buffer_bytes`)."""
        arrays, done = [], 0
        for dtype, shape, n_bytes in self._layout(n_blocks):
            n_items = int(np.prod(shape))
            arrays.append(memory[done : done + n_bytes].view(dtype)[:n_items].reshape(shape))
            done += n_bytes
        return WindowBuffer(arrays[0], arrays[1], arrays[2] if len(arrays) > 2 else None)

    def new_buffer(self, n_blocks: int) -> WindowBuffer:
        """A buffer in memory of this process alone."""
        return self.buffer_in(private_memory(self.buffer_bytes(n_blocks)), n_blocks)

    def _layout(self, n_blocks: int) -> list[tuple[np.dtype, tuple[int, ...], int]]:
        """Type, shape and bytes of each array of a buffer. Arrays begin at whole cache lines (64 bytes)."""
        n_rows = n_blocks * self._values.rows_per_chunk + 1
        arrays: list[tuple[np.dtype, tuple[int, ...]]]
        arrays = [(self._values.coded_dtype, (n_rows, self._values.shape[1])), (np.dtype(np.int64), (n_rows,))]
        if self._values.has_scales:
            arrays.append((np.dtype(np.float32), (n_rows,)))
        return [(dtype, shape, -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64) for dtype, shape in arrays]

    def fill(self, buffer: WindowBuffer, blocks: np.ndarray, counts: np.ndarray, mix: Callable[[], np.ndarray]) -> None:
        """Fill the buffer with the rows of `blocks` that pass, `counts` of each; row i goes to place `mix()[i]`.

        Raises: StoreError if a chunk is damaged; CancelledError after `stop`.
        """
        ends = np.cumsum(counts).tolist()
        ahead = [*blocks.tolist()[_READ_AHEAD_BLOCKS:], *[None] * _READ_AHEAD_BLOCKS]
        pieces = deque(map(_Piece, blocks.tolist(), map(slice, [0, *ends], ends), ahead))
        targets = mix()
        n_bytes = int(counts.sum()) * self._values.shape[1] * self._values.coded_dtype.itemsize
        with self._clock.filling(n_bytes):
            others = [self._pool.submit(self._copy, buffer, targets, pieces) for _ in range(self._threads - 1)]
            self._copy(buffer, targets, pieces)
            for other in others:
                other.result()

    def _copy(self, buffer: WindowBuffer, targets: np.ndarray, pieces: deque[_Piece]) -> None:
        """Copy pieces, which the threads share, until none is left."""
        seconds = 0.0
        try:
            while pieces:
                if self._stopped:
                    raise CancelledError
                try:
                    block, place, ahead = pieces.popleft()
                except IndexError:  # another thread took the last piece
                    return
                if ahead is not None:
                    self._values.will_need(ahead)
                began = time.perf_counter()
                rows, scales = self._values.coded(block)
                seconds += time.perf_counter() - began
                self._put(buffer, targets[place], block, rows, scales)
        finally:
            self._clock.decoded(seconds)  # once a window: a block takes about 30 microseconds, the clock's lock 2

    def _put(
        self, buffer: WindowBuffer, target: np.ndarray, block: int, rows: np.ndarray, scales: np.ndarray | None
    ) -> None:
        """Copy the rows of a block that pass to their places, `target`."""
        places = _whole_rows(buffer.rows)
        if len(target) < len(rows):
            # All rows are copied, those that do not pass to the spare row: gathering the others first costs more.
            passing, target = target, np.full(len(rows), len(places) - 1)
            target[self._mask.rows_in(block)] = passing
        # One number of each target row is read first, so that their cache misses overlap; the copy then finds them.
        _ = buffer.rows[target, 0]
        places[target] = _whole_rows(rows)
        if buffer.scales is not None:
            buffer.scales[target] = scales
        first = block * self._values.rows_per_chunk
        buffer.numbers[target] = np.arange(first, first + len(rows))
        # As many blocks as a window has stay mapped: a store that fits into one window is read without page faults.
        self._values.touch(block, keep=len(places) // self._values.rows_per_chunk)


class PrivateWindows:
    """Two windows in memory of this process: while one is read, the next one is filled."""

    def __init__(self, buffers: list[WindowBuffer], filling: Filling, pool: Executor) -> None:
        self._buffers, self._filling, self._pool = buffers, filling, pool
        self._holds: list[int | None] = [None, None]
        self._pending: list[Future[None] | None] = [None, None]

    def get(self, window: int) -> WindowBuffer:
        """See `Windows.get`."""
        slot = self._holds.index(window) if window in self._holds else self._start(window, 0)
        self._wait(slot)
        if window + 1 not in self._holds:
            self._start(window + 1, 1 - slot)
        return self._buffers[slot]

    def close(self) -> None:
        """See `Windows.close`. Errors of fills still running are dropped: nothing reads those windows."""
        wait([pending for pending in self._pending if pending is not None])

    def _start(self, window: int, slot: int) -> int:
        # One fill at a time: after a jump to another step, two fills could write into one buffer.
        wait([pending for pending in self._pending if pending is not None])
        self._holds[slot] = window
        self._pending[slot] = self._pool.submit(self._filling(window), self._buffers[slot])
        return slot

    def _wait(self, slot: int) -> None:
        pending = self._pending[slot]
        if pending is not None:
            pending.result()
            self._pending[slot] = None


def private_memory(n_bytes: int) -> np.ndarray:
    """New memory (uint8), in huge pages where the system has them."""
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def _whole_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [N, M] as N opaque items: numpy then copies a row at a time, which is a fifth faster (measured)."""
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
