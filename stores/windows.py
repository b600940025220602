"""Filling a window: blocks are read in turn and each row is put straight where the mix wants it."""

import mmap
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from stores.mapped import MappedArray
from stores.masks import RowMask

_READ_AHEAD_BLOCKS = 4


class WindowBuffer(NamedTuple):
    """Memory for one window, allocated once. The last row is where rows that do not pass the filters end up."""

    rows: np.ndarray
    numbers: np.ndarray


class _Piece(NamedTuple):
    """A block of a window, and the part of the window's mix that its rows take."""

    block: int
    targets: slice
    ahead: int | None
    """Block to ask for meanwhile."""


class WindowFiller:
    """Copies blocks of one site into window buffers, with several threads."""

    def __init__(self, values: MappedArray, mask: RowMask, pool: ThreadPoolExecutor, threads: int) -> None:
        self._values, self._mask, self._pool, self._threads = values, mask, pool, threads
        self._stopped = False

    def stop(self) -> None:
        """Give up what is being filled; its `fill` raises CancelledError."""
        self._stopped = True

    def new_buffer(self, n_blocks: int) -> WindowBuffer:
        """Room for the rows of `n_blocks` blocks, in huge pages where the system has them."""
        spec = self._values.spec
        n_rows = n_blocks * spec.rows_per_chunk + 1
        shape = (n_rows, *spec.shape[1:])
        n_bytes = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
        memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        return WindowBuffer(np.frombuffer(memory, spec.dtype).reshape(shape), np.empty(n_rows, np.int64))

    def fill(self, buffer: WindowBuffer, blocks: np.ndarray, counts: np.ndarray, mix: "Future[np.ndarray]") -> None:
        """Put the rows of `blocks` that pass, `counts` of each, into the buffer in the order `mix`.

        Raises: StoreError if a chunk is damaged.
        """
        ends = np.cumsum(counts).tolist()
        ahead = [*blocks.tolist()[_READ_AHEAD_BLOCKS:], *[None] * _READ_AHEAD_BLOCKS]
        pieces = deque(map(_Piece, blocks.tolist(), map(slice, [0, *ends], ends), ahead))
        targets = mix.result()
        parts = [self._pool.submit(self._copy, buffer, targets, pieces) for _ in range(self._threads - 1)]
        self._copy(buffer, targets, pieces)
        for part in parts:
            part.result()

    def _copy(self, buffer: WindowBuffer, targets: np.ndarray, pieces: deque[_Piece]) -> None:
        """Take pieces until none is left."""
        slots = _whole_rows(buffer.rows)
        while pieces:
            if self._stopped:
                raise CancelledError
            try:
                block, place, ahead = pieces.popleft()
            except IndexError:  # another thread took the last one
                return
            if ahead is not None:
                self._values.will_need(ahead)
            rows = self._values.chunk(block)
            target = targets[place]
            if len(target) < len(rows):
                # Writing a dropped row over the spare one again and again costs less than gathering the others first.
                kept, target = target, np.full(len(rows), len(slots) - 1)
                target[self._mask.rows_in(block)] = kept
            # A number of each row first: memory answers many such reads at once, and the copy then waits less for it.
            _ = buffer.rows[target, 0]
            slots[target] = _whole_rows(rows)
            first = block * self._values.spec.rows_per_chunk
            buffer.numbers[target] = np.arange(first, first + len(rows))
            # Pages of as many blocks as a window has stay: a store that fits into one is read without a page fault.
            self._values.hold(block, at_most=len(slots) // self._values.spec.rows_per_chunk)


def _whole_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [N, M] as N opaque items: numpy then copies a row at once, which is a fifth faster."""
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
