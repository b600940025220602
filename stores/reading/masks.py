"""Which rows of each block pass a split and its filters; one bit a row."""

from copy import copy

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.reading.array import StoredArray
from strata_sae.stores.reading.filters import Filters


class RowMask:
    """The rows of a split that pass the filters, by block (= chunk) of R rows. `a & b`: those that pass both."""

    limited_by: tuple[str, ...] = ()
    """Sites whose norm limits formed it, by name, where that is more than the limit of the one site that is read."""

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
                self._bits[index] = np.packbits(local_R)
        self._count()

    def _count(self) -> None:
        counts = np.bitwise_count(self._bits).sum(axis=1, dtype=np.int64)
        self.blocks = np.flatnonzero(counts) + self._first_block
        """Numbers of the blocks that hold such rows, rising."""
        self.counts = counts[counts > 0]
        """How many such rows each of `blocks` holds."""
        self.n_rows = int(counts.sum())

    def __and__(self, other: "RowMask") -> "RowMask":
        mine, its = ((*mask._bits.shape, mask._first_block, mask._rows_per_block) for mask in (self, other))
        if mine != its:
            raise StoreError(f"masks of other rows or blocks: {mine} and {its}")
        both = copy(self)
        both._bits = self._bits & other._bits
        both._count()
        return both

    def rows_in(self, block: int) -> np.ndarray:
        """Places inside a block of the rows that pass, int64, rising."""
        bits = np.unpackbits(self._bits[block - self._first_block], count=self._rows_per_block)
        return np.flatnonzero(bits)
