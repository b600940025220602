"""The tokens of a store: the rows that hold each, and the tokens that a text means."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from strata_sae.stores import Token

LARGEST_TABLE = 2**24
"""Ids up to here are ranked by a table of 4 bytes an id, others by a search, which takes 20 times as long."""
MOST_MATCHES = 64
"""Tokens that a text may mean."""
MOST_CHARACTERS = 200
"""Characters of a token that are shown; a vocabulary of somebody else may hold tokens of many kB."""


class TokenIndex:
    """The rows of each token that occurs. U tokens, by rank: their place among the ids that occur, rising."""

    def __init__(self, token_id_N: np.ndarray, vocabulary: Mapping[int, Token]) -> None:
        """token_id_N: int32 [N], none below 0. vocabulary: what each stands for."""
        self._token_id, self._vocabulary = token_id_N, vocabulary

    @cached_property
    def ids(self) -> np.ndarray:
        """The ids that occur, int32 [U], rising."""
        if not self._is_small:
            return np.unique(self._token_id).astype(np.int32)
        return np.flatnonzero(np.bincount(self._token_id)).astype(np.int32)

    @cached_property
    def rank(self) -> np.ndarray:
        """Rank of the token of each row, int32 [N]."""
        if not self._is_small:
            return np.searchsorted(self.ids, self._token_id).astype(np.int32)
        table = np.zeros(int(self.ids[-1]) + 1 if len(self.ids) else 0, np.int32)
        table[self.ids] = np.arange(len(self.ids), dtype=np.int32)
        return table[self._token_id]

    @cached_property
    def _is_small(self) -> bool:
        return int(self._token_id.max(initial=0)) < LARGEST_TABLE

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows of each token begin, int64 [U + 1], and the rows, int64 [N], rising in each."""
        # Numpy sorts 16 bits by their digits, in milliseconds; the lower half first, since the sort is stable.
        rows = np.argsort((self.rank & 0xFFFF).astype(np.uint16), kind="stable")
        if len(self.ids) > 2**16:
            rows = rows[np.argsort((self.rank >> 16)[rows].astype(np.uint16), kind="stable")]
        return np.concatenate([[0], np.cumsum(np.bincount(self.rank, minlength=len(self.ids)))]), rows

    def ranks_of(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Ranks of those of these ids that occur, int64, rising."""
        return np.flatnonzero(np.isin(self.ids, np.asarray(token_ids, np.int64)))

    def rows_of(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows that hold one of these tokens, int64, rising."""
        offset, rows = self._rows
        pieces = [rows[offset[rank] : offset[rank + 1]] for rank in self.ranks_of(token_ids)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *pieces]))

    def token(self, token_id: int) -> Token:
        """What an id stands for; where nothing says so, its number as the name of a special token."""
        return self._vocabulary.get(token_id) or Token(f"[{token_id}]".encode(), special=True)

    def text(self, token_id: int) -> str:
        """The text of a token alone, its leading space kept: U+FFFD for part of a character, cut where it is long."""
        return cut(self.token(token_id).text)

    @cached_property
    def _texts(self) -> list[str]:
        """By rank, whole."""
        return [self.token(token_id).text for token_id in self.ids.tolist()]

    @cached_property
    def _folded(self) -> list[str]:
        return [text.casefold() for text in self._texts]

    def matching(self, query: str) -> list[int]:
        """The ids of the tokens that a text means, at most MOST_MATCHES; of the first of these kinds that there is.

        Exactly this text, with or without a space before it unless the text begins with one; the same but for case;
        the text within a longer one, the shortest tokens first.
        """
        if not query:
            return []
        wanted = {query} if query[:1] == " " else {query, f" {query}"}
        folded = {text.casefold() for text in wanted}
        exact = [rank for rank, text in enumerate(self._texts) if text in wanted]
        found = exact or [rank for rank, text in enumerate(self._folded) if text in folded]
        if not found:
            part = query.casefold()
            found = [rank for rank, text in enumerate(self._folded) if part in text]
            found.sort(key=lambda rank: (len(self._texts[rank]), rank))
        return [int(self.ids[rank]) for rank in found[:MOST_MATCHES]]


def cut(text: str) -> str:
    """A token's text, of which the first MOST_CHARACTERS characters are kept."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}\N{HORIZONTAL ELLIPSIS}"
