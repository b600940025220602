"""Filling a window: blocks are read in turn and each row is put straight where the mix wants it."""

import mmap
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

import numpy as np

from strata_sae.stores.reading.masks import RowMask
from strata_sae.stores.reading.site_rows import SiteRows
from strata_sae.stores.serving.clock import LoaderClock

_READ_AHEAD_BLOCKS = 4


class WindowBuffer(NamedTuple):
    """Memory for one window, allocated once. The last row is where rows that do not pass the filters end up."""

    rows: np.ndarray
    """Coded rows; see `SiteRows`."""
    numbers: np.ndarray
    scales: np.ndarray | None


Filling = Callable[[int], Callable[[WindowBuffer], None]]
"""From the number of a window, counted over all epochs, to what fills a buffer with it (in any thread)."""


class Windows(Protocol):
    """The windows of an endless stream, one at a time."""

    def get(self, window: int) -> WindowBuffer:
        """The filled buffer of a window, valid until the next call; begins to fill the next one behind it."""

    def close(self) -> None:
        """Let go of every window."""


class _Piece(NamedTuple):
    """A block of a window, and the part of the window's mix that its rows take."""

    block: int
    targets: slice
    ahead: int | None
    """Block to ask for meanwhile."""


class WindowFiller:
    """Copies blocks of one site into window buffers, with several threads."""

    def __init__(
        self, values: SiteRows, mask: RowMask, pool: ThreadPoolExecutor, threads: int, clock: LoaderClock
    ) -> None:
        self._values, self._mask, self._pool, self._threads, self._clock = values, mask, pool, threads, clock
        self._stopped = False

    def stop(self) -> None:
        """Give up what is being filled; its `fill` raises CancelledError."""
        self._stopped = True

    def buffer_bytes(self, n_blocks: int) -> int:
        """Memory that the rows of `n_blocks` blocks take."""
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
        """A buffer in memory of our own."""
        return self.buffer_in(own_memory(self.buffer_bytes(n_blocks)), n_blocks)

    def _layout(self, n_blocks: int) -> list[tuple[np.dtype, tuple[int, ...], int]]:
        """Type, shape and room, in whole cache lines, of each array of a buffer."""
        n_rows = n_blocks * self._values.rows_per_chunk + 1
        arrays: list[tuple[np.dtype, tuple[int, ...]]]
        arrays = [(self._values.coded_dtype, (n_rows, self._values.shape[1])), (np.dtype(np.int64), (n_rows,))]
        if self._values.has_scales:
            arrays.append((np.dtype(np.float32), (n_rows,)))
        return [(dtype, shape, -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64) for dtype, shape in arrays]

    def fill(self, buffer: WindowBuffer, blocks: np.ndarray, counts: np.ndarray, mix: Callable[[], np.ndarray]) -> None:
        """Put the rows of `blocks` that pass, `counts` of each, into the buffer in the order `mix()`.

        Raises: StoreError if a chunk is damaged.
        """
        ends = np.cumsum(counts).tolist()
        ahead = [*blocks.tolist()[_READ_AHEAD_BLOCKS:], *[None] * _READ_AHEAD_BLOCKS]
        pieces = deque(map(_Piece, blocks.tolist(), map(slice, [0, *ends], ends), ahead))
        targets = mix()
        with self._clock.filling(self._put_bytes(counts)):
            parts = [self._pool.submit(self._copy, buffer, targets, pieces) for _ in range(self._threads - 1)]
            self._copy(buffer, targets, pieces)
            for part in parts:
                part.result()

    def _put_bytes(self, counts: np.ndarray) -> int:
        """Bytes of so many rows of each block, as a window holds them."""
        return int(counts.sum()) * self._values.shape[1] * self._values.coded_dtype.itemsize

    def _copy(self, buffer: WindowBuffer, targets: np.ndarray, pieces: deque[_Piece]) -> None:
        """Take pieces until none is left."""
        seconds = 0.0
        try:
            while pieces:
                if self._stopped:
                    raise CancelledError
                try:
                    block, place, ahead = pieces.popleft()
                except IndexError:  # another thread took the last one
                    return
                if ahead is not None:
                    self._values.will_need(ahead)
                began = time.perf_counter()
                rows, scales = self._values.coded(block)
                seconds += time.perf_counter() - began
                self._put(buffer, targets[place], block, rows, scales)
        finally:
            self._clock.decoded(seconds)  # once a window: a block takes some 30 microseconds, locking the clock two

    def _put(
        self, buffer: WindowBuffer, target: np.ndarray, block: int, rows: np.ndarray, scales: np.ndarray | None
    ) -> None:
        """Copy the rows of a block that pass to their places."""
        slots = _whole_rows(buffer.rows)
        if len(target) < len(rows):
            # Writing a dropped row over the spare one again and again costs less than gathering the others first.
            kept, target = target, np.full(len(rows), len(slots) - 1)
            target[self._mask.rows_in(block)] = kept
        # A number of each row first: memory answers many such reads at once, and the copy then waits less for it.
        _ = buffer.rows[target, 0]
        slots[target] = _whole_rows(rows)
        if buffer.scales is not None:
            buffer.scales[target] = scales
        first = block * self._values.rows_per_chunk
        buffer.numbers[target] = np.arange(first, first + len(rows))
        # Pages of as many blocks as a window has stay: a store that fits into one is read without a page fault.
        self._values.touch(block, keep=len(slots) // self._values.rows_per_chunk)


class PrivateWindows:
    """Two windows in memory of our own: one is served, the next one is filled behind it."""

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
        """See `Windows.close`. What failed meanwhile no longer matters: at the end of a program, any fill may."""
        wait([pending for pending in self._pending if pending is not None])

    def _start(self, window: int, slot: int) -> int:
        # One fill at a time, after a jump too: two would write into one buffer.
        wait([pending for pending in self._pending if pending is not None])
        self._holds[slot] = window
        self._pending[slot] = self._pool.submit(self._filling(window), self._buffers[slot])
        return slot

    def _wait(self, slot: int) -> None:
        pending = self._pending[slot]
        if pending is not None:
            pending.result()
            self._pending[slot] = None


def own_memory(n_bytes: int) -> np.ndarray:
    """Fresh memory (uint8), in huge pages where the system has them."""
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def _whole_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [N, M] as N opaque items: numpy then copies a row at once, which is a fifth faster."""
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
