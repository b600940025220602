"""One number for each document and latent: the largest or the mean value over the document's rows, kept sparse."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from strata_sae.pipeline.queries.opened import CodedSAE, Text
from strata_sae.pipeline.queries.posting_blocks import PostingBlock, posting_blocks

Pooling = Literal["max", "mean"]
"""Over the rows as trained that a document has; rows on which the latent is silent count as 0."""
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
READ_ALL_SHARE = 0.1
"""Of the latents; for more of them all codes are read once, which is faster than each latent alone."""


class PooledBlock(NamedTuple):
    """Some latents on all documents, latent by latent; what is 0 is left out."""

    first: int
    """The first of the latents."""
    offset: np.ndarray
    """int64 [latents + 1], from 0."""
    place: np.ndarray
    """int64: places among `PooledCodes.documents`, rising in a latent."""
    value: np.ndarray
    """float64."""


class PooledCodes:
    """The codes of an SAE by document, over rows as trained. D documents: those with such rows, by their first one."""

    def __init__(self, sae: CodedSAE, text: Text, pooling: Pooling = "mean") -> None:
        self.sae, self.pooling = sae, pooling
        numbers, place_N = text.documents
        kept = np.flatnonzero(sae.kept())
        # In this order the documents of a latent's rows rise, unless the store is shuffled or a document drawn again.
        found, first_row = np.unique(place_N[kept], return_index=True)
        found = found[np.argsort(first_row, kind="stable")]
        self.documents = numbers[found]
        """Numbers in the corpus, int64 [D]."""
        place_of = np.full(len(numbers), -1, np.int64)
        place_of[found] = np.arange(len(found))
        self._place_N = np.full(len(place_N), -1, np.int64)
        self._place_N[kept] = place_of[place_N[kept]]
        self.n_rows_D = np.bincount(self._place_N[kept], minlength=len(found))
        """Rows as trained in each, int64 [D]."""

    def blocks(self) -> Iterator[PooledBlock]:
        """All latents, some at a time."""
        for block in posting_blocks(self.sae.codes):
            yield self._pooled(block)

    def of(self, latents: Sequence[int], places: np.ndarray | None = None) -> np.ndarray:
        """Some latents, none twice, on documents, float64 [documents, latents].

        places: among `documents`, rising; None: all.
        Raises: StoreError if a latent is none.
        """
        places = np.arange(len(self.documents)) if places is None else places
        row_D = np.full(len(self.documents), -1, np.int64)
        row_D[places] = np.arange(len(places))
        pooled_DL = np.zeros((len(places), len(latents)))
        for column, found in self._of_each(latents):
            row = row_D[found.place]
            pooled_DL[row[row >= 0], column] = found.value[row >= 0]
        return pooled_DL

    def _of_each(self, latents: Sequence[int]) -> Iterator[tuple[int, PooledBlock]]:
        """Each of some latents: its place among them, and a block of it alone."""
        if len(latents) <= self.sae.d_sae * READ_ALL_SHARE:
            for column, latent in enumerate(latents):
                yield column, self._pooled(PostingBlock(latent, *self.sae.codes.postings(latent, latent + 1)))
            return
        column_of = {latent: column for column, latent in enumerate(latents)}
        for block in self.blocks():
            for latent in column_of.keys() & range(block.first, block.first + len(block.offset) - 1):
                here = slice(*block.offset[latent - block.first : latent - block.first + 2])
                offset = np.array([0, here.stop - here.start])
                yield column_of[latent], PooledBlock(latent, offset, block.place[here], block.value[here])

    def _pooled(self, block: PostingBlock) -> PooledBlock:
        n_latents, n_documents = len(block.offset) - 1, len(self.documents)
        place_P = self._place_N[block.rows]
        is_kept_P = place_P >= 0
        # A pair's latent and document in one number, by which a document's rows come together.
        key_P = np.repeat(np.arange(n_latents), np.diff(block.offset))[is_kept_P] * n_documents + place_P[is_kept_P]
        value_P = block.values[is_kept_P].astype(np.float64)
        if (key_P[1:] < key_P[:-1]).any():
            order = np.argsort(key_P, kind="stable")
            key_P, value_P = key_P[order], value_P[order]
        start = np.flatnonzero(np.concatenate([np.ones(min(1, len(key_P)), bool), key_P[1:] != key_P[:-1]]))
        key = key_P[start]
        latent, place = np.divmod(key, max(1, n_documents))
        if self.pooling == "mean":
            value = np.add.reduceat(value_P, start) / self.n_rows_D[place] if len(start) else value_P
        else:
            value = np.maximum.reduceat(value_P, start) if len(start) else value_P
            n_active = np.diff(np.append(start, len(key_P)))
            value = np.where(n_active < self.n_rows_D[place], np.maximum(value, 0), value)
        offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(latent, minlength=n_latents))])
        return PooledBlock(block.first, offset, place, value)
