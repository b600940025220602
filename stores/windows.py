"""Filling a window: blocks are read in turn and each row is put straight where the mix wants it."""

import mmap
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from stores.mapped import MappedArray
from stores.masks import RowMask
from stores.shuffling import permutation

_READ_AHEAD_BLOCKS = 4


class WindowBuffer(NamedTuple):
    """Memory for one window, allocated once."""

    rows: np.ndarray
    numbers: np.ndarray


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
        n_rows = n_blocks * spec.rows_per_chunk
        shape = (n_rows, *spec.shape[1:])
        n_bytes = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
        memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        return WindowBuffer(np.frombuffer(memory, spec.dtype).reshape(shape), np.empty(n_rows, np.int64))

    def fill(self, buffer: WindowBuffer, blocks: np.ndarray, key: object) -> None:
        """Put the rows of `blocks` into the buffer, mixed by `key`. Raises: StoreError if a chunk is damaged."""
        local = [self._mask.rows_in(block) for block in blocks.tolist()]
        edges = np.concatenate([[0], np.cumsum([len(rows) for rows in local])])
        targets = permutation(key, int(edges[-1]))
        cuts = np.linspace(0, len(blocks), self._threads + 1).astype(int).tolist()
        parts = [
            self._pool.submit(self._copy, buffer, blocks, local, edges, targets, range(first, last))
            for first, last in pairwise(cuts[1:])
        ]
        self._copy(buffer, blocks, local, edges, targets, range(cuts[0], cuts[1]))
        for part in parts:
            part.result()

    def _copy(
        self,
        buffer: WindowBuffer,
        blocks: np.ndarray,
        local: list[np.ndarray],
        edges: np.ndarray,
        targets: np.ndarray,
        some: range,
    ) -> None:
        size = self._values.spec.rows_per_chunk
        for index in some:
            if self._stopped:
                raise CancelledError
            if index + _READ_AHEAD_BLOCKS < len(blocks):
                self._values.will_need(int(blocks[index + _READ_AHEAD_BLOCKS]))
            block = int(blocks[index])
            rows = self._values.chunk(block)
            kept = local[index]
            target = targets[edges[index] : edges[index + 1]]
            buffer.rows[target] = rows if len(kept) == len(rows) else rows[kept]
            buffer.numbers[target] = kept + block * size
