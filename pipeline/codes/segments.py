"""One segment of a codes store: its rows encoded, sorted, and put into both orders in about 16 bytes a pair."""

from collections.abc import Callable

import numpy as np

from strata_sae.pipeline.codes.encoding import RowsEncoder, TileCodes
from strata_sae.pipeline.codes.estimate import most_pairs, refused
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.machine.compiled.postings import append_rows, transposed
from strata_sae.stores import CodesPlan, SegmentCodes

_ROOM_PAIRS = 2**16
"""Of the buffers of a segment at first; they grow by half of what they hold."""


def encoded(
    encoder: RowsEncoder, plan: CodesPlan, segment: int, advance: Callable[[int], None]
) -> SegmentCodes:
    """The codes of a segment. advance: is called with rows that are done, and may raise, to stop.

    Raises: ConfigError as soon as they are too many; StoreError for rows that are not finite.
    """
    first, last = plan.segment_rows(segment)
    most, entries = most_pairs(plan.d_sae, last - first), _Entries(last - first)
    for stretch in encoder.tiles(first, last):
        for tile in stretch:
            entries.append(tile)
        if entries.n_pairs > most:
            mean = entries.n_pairs / entries.n_rows
            raise ConfigError(f"segment {segment}: {refused(mean, plan.d_sae)}; what is made of its codes can be deleted")
        advance(sum(len(tile.offsets) - 1 for tile in stretch))
    return entries.in_both_orders(plan.d_sae)


class _Entries:
    """Latents and values in the order of the rows. Buffers grow in place: memory that is never written takes none."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows, self.n_pairs = 0, 0
        self._counts = np.zeros(n_rows, np.int64)
        self._latent, self._value = np.empty(_ROOM_PAIRS, np.uint32), np.empty(_ROOM_PAIRS, np.float32)

    def append(self, tile: TileCodes) -> None:
        """Take the rows of a tile in, without entries of value 0."""
        n_rows, needed = len(tile.offsets) - 1, self.n_pairs + len(tile.latents_P)
        if needed > len(self._latent):
            for buffer in (self._latent, self._value):
                buffer.resize(needed + needed // 2, refcheck=False)
        counts = self._counts[self.n_rows : self.n_rows + n_rows]
        self.n_pairs = append_rows(
            tile.values_P, tile.latents_P, tile.offsets, 0, n_rows, self.n_pairs, self._latent, self._value, counts
        )
        self.n_rows += n_rows

    def in_both_orders(self, d_sae: int) -> SegmentCodes:
        """The segment; the values by row are given up."""
        row_offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._counts)])
        for buffer in (self._latent, self._value):
            buffer.resize(self.n_pairs, refcheck=False)
        by_latent = transposed(row_offset, self._latent, self._value, d_sae)
        self._value = np.empty(0, np.float32)
        return SegmentCodes(row_offset, self._latent, *by_latent)
