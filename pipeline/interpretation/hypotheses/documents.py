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


def _text(text: Text, rows: np.ndarray) -> str:
    rows = rows[np.unique(text.position[rows], return_index=True)[1]][:MOST_TOKENS]
    tokens = [text.tokens.token(token_id) for token_id in text.token_id[rows].tolist()]
    tokens = [token for token in tokens if not token.special]
    return "".join(shown(tokens, 0, len(tokens))) if tokens else ""
