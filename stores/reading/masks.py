"""Which rows are read, and in which random order: filters, the rows of a block that pass them, permutations by key."""

import hashlib
from copy import copy
from dataclasses import asdict, dataclass

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, canonical_json
from strata_sae.stores.format.plan import FLAG_BOS, FLAG_SPECIAL, FLAG_TEMPLATE, Plan
from strata_sae.stores.reading.array import StoredArray


def random_words(key: Json, n: int) -> np.ndarray:
    """Random numbers, uint64, named by `key`."""
    digest = hashlib.sha256(canonical_json(key)).digest()
    return np.asarray(np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(n))


def permutation(key: Json, n: int) -> np.ndarray:
    """A random order of 0..n-1, int64, named by `key`.

    Philox's raw stream is fixed by its definition; numpy's `permutation` may change between versions.
    """
    if n <= 1:
        return np.zeros(n, np.int64)
    raw = random_words(key, n)
    bits = np.uint64(max(n - 1, 1).bit_length())
    # Random upper bits, the index below: keys are unique, so every sorting algorithm gives the same order.
    keys = (raw >> bits << bits) | np.arange(n, dtype=np.uint64)
    # A radix pass over the upper 16 bits leaves short stretches for the comparison sort: half the time at 2^20 keys.
    keys = keys[np.argsort((raw >> np.uint64(48)).astype(np.uint16), kind="stable")]
    keys.sort(kind="stable")
    return np.asarray(keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


@dataclass(frozen=True)
class Filters:
    """Rows to leave out."""

    drop_bos: bool = False
    drop_special: bool = False
    drop_template: bool = False
    max_norm_multiple: float | None = None
    """Leave out rows whose norm exceeds this multiple of the median norm of unflagged rows (known within 0.8 %)."""

    def key(self) -> dict[str, Json]:
        """Plain data that names these filters, for fingerprints and random keys."""
        return asdict(self)

    def flag_mask(self) -> int:
        """Flag bits whose rows are left out."""
        return self.drop_bos * FLAG_BOS | self.drop_special * FLAG_SPECIAL | self.drop_template * FLAG_TEMPLATE

    def passes(self, flags_N: np.ndarray, norms_N: np.ndarray | None, median_norm: float) -> np.ndarray:
        """Boolean mask of the rows that stay; norms may be None when no norm limit is set."""
        mask_N = (flags_N & self.flag_mask()) == 0
        if self.max_norm_multiple is not None:
            assert norms_N is not None
            mask_N &= norms_N <= self.max_norm_multiple * median_norm
        return np.asarray(mask_N)


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
