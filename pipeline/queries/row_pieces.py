"""The codes of the rows of a population, in pieces that fit in memory, and blocks of what is counted over them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.cofiring import (
    add_counts,
    add_together,
    add_together_above,
    block_postings,
    kept_pairs,
)
from strata_sae.pipeline.kernels.machine.compiled.loops import over_rows
from strata_sae.stores import CodesStore
from strata_sae.stores.errors import StoreError

HELD_BYTES = 2**27
"""Codes up to this size stay in memory while blocks are counted; larger ones are read again for each block."""
BLOCK_BYTES = 2**26
"""What a block of latents is counted in. With the codes that are held and a piece that is read: below 256 MB."""
PAIRS_AT_ONCE = 2**23
"""Pairs of a piece (count): 32 MB as they are read."""
LATENTS_AT_ONCE = 4
"""Latents that a thread takes at a time (count): one may be active on a seventh of all rows."""

Told = Callable[[int, int], None]
"""Is told how far a count is: latents that are done, all latents."""


class Piece(NamedTuple):
    """Codes of a stretch of rows, without those of rows outside of the population."""

    offset: np.ndarray
    """int64 [R + 1]: row r of the piece has the latents offset[r] to offset[r + 1] - 1."""
    latent: np.ndarray
    """uint16 or uint32, rising in each row."""


class KeptCodes:
    """The codes of an SAE on the rows that are kept."""

    def __init__(self, codes: CodesStore, kept_N: np.ndarray, rows_at_once: int | None = None) -> None:
        """kept_N: bool [n_rows]. rows_at_once: of a piece; None: all rows, if their codes stay in memory."""
        self.d_sae, self.n_rows = codes.plan.d_sae, codes.plan.n_rows
        self._codes, self._kept_N = codes, kept_N
        self._type = np.dtype(np.uint16 if self.d_sae <= 2**16 else np.uint32)
        n_pairs = max(codes.n_pairs, 1)
        self._rows_read_at_once = max(1, min(self.n_rows, PAIRS_AT_ONCE * self.n_rows // n_pairs))
        is_held = n_pairs * self._type.itemsize <= HELD_BYTES
        self.rows_at_once = rows_at_once or (self.n_rows if is_held else self._rows_read_at_once)
        self._held: dict[int, Piece] | None = {} if is_held else None
        self._counts: dict[int, np.ndarray] = {}

    @property
    def n_pieces(self) -> int:
        """Pieces (count)."""
        return -(-self.n_rows // self.rows_at_once)

    def piece(self, number: int) -> Piece:
        """One piece. Raises: StoreError if the codes are not of their plan's latents."""
        if self._held is not None and number in self._held:
            return self._held[number]
        first = number * self.rows_at_once
        last = min(first + self.rows_at_once, self.n_rows)
        offset, latent, n = np.zeros(last - first + 1, np.int64), np.empty(0, self._type), 0
        for start in range(first, last, self._rows_read_at_once):
            stop = min(start + self._rows_read_at_once, last)
            read_offset, latents = self._codes.latents_of(start, stop)
            # A loop writes wherever a number points, so numbers are looked at once.
            if len(latents) and int(latents.max()) >= self.d_sae:
                raise StoreError(
                    f"{self._codes.path}: holds latent {latents.max()} of {self.d_sae}; make the codes again"
                )
            if n + len(latents) > len(latent):  # as much as the rest will take if its rows are like these
                n_more = len(latents) * (last - start) // (stop - start)
                latent.resize(n + max(len(latents), n_more), refcheck=False)
            at = kept_pairs(read_offset, latents, self._kept_N[start:stop], latent[n:])
            offset[start - first : stop - first + 1] = at + n
            n += int(at[-1])
        latent.resize(n, refcheck=False)
        if self._held is not None:
            self._held[number] = Piece(offset, latent)
        return Piece(offset, latent)

    def pieces(self) -> Iterator[Piece]:
        """All pieces, in the order of their rows."""
        return map(self.piece, range(self.n_pieces))

    def counts_in(self, number: int) -> np.ndarray:
        """On how many rows of a piece each latent is active: uint32 [d_sae]."""
        if number not in self._counts:
            count_E = np.zeros(self.d_sae, np.uint32)
            add_counts(self.piece(number).latent, count_E)
            self._counts[number] = count_E
        return self._counts[number]

    def counts(self) -> np.ndarray:
        """On how many of the rows each latent is active: int64 [d_sae]."""
        return sum((self.counts_in(number) for number in range(self.n_pieces)), np.zeros(self.d_sae, np.int64))


def blocks_together(
    mine: KeptCodes, other: KeptCodes, *, above: bool = False, told: Told | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """On how many rows each latent of the one is active together with each latent of the other, block by block.

    above: leave out others of the same or a lower number, for an SAE with itself. Both have the same rows at once.
    Yields: the first latent of a block of B; counts, uint32 [B, latents of the other], valid until the next block.
    """
    n_block = max(1, min(mine.d_sae, BLOCK_BYTES // (4 * other.d_sae)))
    together_BF = np.empty((n_block, other.d_sae), np.uint32)
    cursors: list[np.ndarray] = []
    for start in range(0, mine.d_sae, n_block):
        stop = min(start + n_block, mine.d_sae)
        together_BF[:] = 0
        for number in range(mine.n_pieces):
            piece, of_other = mine.piece(number), other.piece(number)
            if number == len(cursors):
                cursors.append(np.zeros(len(piece.offset) - 1, np.int32))
            count_B = mine.counts_in(number)[start:stop]
            postings = block_postings(piece.offset, piece.latent, cursors[number], count_B, start)
            arguments = (*postings, of_other.offset, of_other.latent, together_BF)
            if above:
                over_rows(add_together_above, stop - start, LATENTS_AT_ONCE, *arguments, start)
            else:
                over_rows(add_together, stop - start, LATENTS_AT_ONCE, *arguments)
        yield start, together_BF[: stop - start]
        if told is not None:
            told(stop, mine.d_sae)
