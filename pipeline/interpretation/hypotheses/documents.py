"""The text of documents as a store has it, for a language model to read."""

from collections.abc import Sequence

import numpy as np

from strata_sae.pipeline.queries.opened import Text
from strata_sae.pipeline.reading.context import shown

MOST_TOKENS = 512
"""Of a document (count), from its beginning; the annotator shows 256 words."""


def texts_of(text: Text, documents: Sequence[int]) -> list[str]:
    """The first MOST_TOKENS tokens of each document that the store holds, without special ones; gaps are closed.

    Of a document that was drawn twice, each of its tokens once.
    """
    numbers, place_N = text.documents
    places = np.searchsorted(numbers, np.asarray(documents, np.int64))
    is_wanted = np.zeros(len(numbers), bool)
    is_wanted[places] = True
    rows = np.flatnonzero(is_wanted[place_N])
    rows = rows[np.lexsort((text.position[rows], place_N[rows]))]
    first = np.searchsorted(place_N[rows], places)
    last = np.searchsorted(place_N[rows], places, "right")
    return [_text(text, rows[start:stop]) for start, stop in zip(first.tolist(), last.tolist(), strict=True)]


def token_sums(text: Text, documents: np.ndarray) -> np.ndarray:
    """Sums of hashes of each document's tokens and their places, uint64 [D]: equal of documents with equal tokens.

    Of different documents they are equal with a chance of 2^-64. Of one that was drawn twice every row counts.
    """
    numbers, place_N = text.documents
    hash_N = text.token_id.astype(np.uint64) << np.uint64(32) | text.position.astype(np.uint64)
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # the mixing steps of splitmix64
        hash_N = (hash_N ^ (hash_N >> np.uint64(30))) * np.uint64(factor)
    hash_N ^= hash_N >> np.uint64(31)
    # Halves are summed: floating-point sums of 32 bits are exact for documents of up to two million tokens.
    low, high = (
        np.bincount(place_N, part.astype(np.float64), len(numbers)).astype(np.uint64)
        for part in (hash_N & np.uint64(2**32 - 1), hash_N >> np.uint64(32))
    )
    return np.asarray((low + (high << np.uint64(32)))[np.searchsorted(numbers, documents)])


def _text(text: Text, rows: np.ndarray) -> str:
    rows = rows[np.unique(text.position[rows], return_index=True)[1]][:MOST_TOKENS]
    tokens = [text.tokens.token(token_id) for token_id in text.token_id[rows].tolist()]
    tokens = [token for token in tokens if not token.special]
    return "".join(shown(tokens, 0, len(tokens))) if tokens else ""
