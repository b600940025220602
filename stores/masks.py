"""Which rows of each block pass a split and its filters; one bit a row."""

import numpy as np

from stores.filters import Filters
from stores.plan import Plan
from stores.stored import StoredArray


class RowMask:
    """The rows of a split that pass the filters, by block (= chunk) of R rows."""

    def __init__(
        self,
        flags: StoredArray,
        norms: StoredArray | None,
        plan: Plan,
        rows: tuple[int, int],
        filters: Filters,
        median_norm: float,
    ) -> None:
        size = plan.rows_per_chunk
        self._rows_per_block = size
        self._first_block = rows[0] // size
        n_blocks = -(-rows[1] // size) - self._first_block if rows[1] > rows[0] else 0
        self._bits = np.zeros((n_blocks, -(-size // 8)), np.uint8)
        counts = np.zeros(n_blocks, np.int64)
        blocks_per_read = max(1, flags.spec.rows_per_chunk // size)
        for first in range(0, n_blocks, blocks_per_read):
            some = range(first, min(first + blocks_per_read, n_blocks))
            start = max((self._first_block + first) * size, rows[0])
            stop = min((self._first_block + some.stop) * size, rows[1])
            limit = norms.rows(start, stop) if norms is not None else None
            passes_N = filters.passes(flags.rows(start, stop), limit, median_norm)
            for index in some:
                low = (self._first_block + index) * size
                piece_N = passes_N[max(low - start, 0) : low + size - start]
                local_R = np.zeros(size, bool)
                offset = max(start - low, 0)
                local_R[offset : offset + len(piece_N)] = piece_N
                counts[index] = int(local_R.sum())
                self._bits[index] = np.packbits(local_R)
        self.blocks = np.flatnonzero(counts) + self._first_block
        """Numbers of the blocks that hold such rows, rising."""
        self.counts = counts[counts > 0]
        """How many such rows each of `blocks` holds."""
        self.n_rows = int(counts.sum())

    def rows_in(self, block: int) -> np.ndarray:
        """Places inside a block of the rows that pass, int64, rising."""
        bits = np.unpackbits(self._bits[block - self._first_block], count=self._rows_per_block)
        return np.flatnonzero(bits)
