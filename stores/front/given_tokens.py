"""A token map as a caller gives it, read in pieces; what is left out is filled in."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from strata_sae.stores.errors import StoreError, UnfitRows
from strata_sae.stores.format.plan import FLAG_BOS, FLAG_SPECIAL, FLAG_TEMPLATE, TOKEN_FIELDS, TOKEN_ROWS_PER_CHUNK

MAX_WORDS = 500_000
"""Different token ids of a store: token_bytes.json, which names each, stays within what a store's JSON may hold."""
_LARGEST = {
    "token_id": 2**31 - 1,
    "document": 2**63 - 1,
    "position": 2**31 - 1,
    "flags": FLAG_BOS | FLAG_SPECIAL | FLAG_TEMPLATE,
}


class Rows(Protocol):
    """What is read in pieces: an array, a memory map, or anything else that gives rows [a, b) for `rows[a:b]`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, M], or [N] of a field of the token map."""

    @property
    def dtype(self) -> np.dtype:
        """Of every piece."""

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Some rows."""


class Survey(NamedTuple):
    """What a plan says of a token map."""

    n_documents: int
    words: list[int]
    """Every token id that occurs, ascending."""


class GivenTokens:
    """The fields of the token map of N rows; each is checked whenever it is read."""

    def __init__(self, n_rows: int, given: Mapping[str, Rows]) -> None:
        """Raises: StoreError if a field is unknown, or not N integers."""
        if unknown := sorted(set(given) - set(TOKEN_FIELDS)):
            raise StoreError(f"tokens: {unknown} are no fields of the token map; allowed: {', '.join(TOKEN_FIELDS)}")
        for name, values_N in given.items():
            if values_N.shape != (n_rows,) or values_N.dtype.kind not in "iu":
                raise StoreError(f"tokens: {name}: shape {values_N.shape}, {values_N.dtype}; give {n_rows} integers")
        self.n_rows, self._given = n_rows, given

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """All four fields in the types of a store, piece by piece in the order of rows.

        Raises: UnfitRows at a value that no store may hold, or a document that comes before the one before it.
        """
        last_document, start_row = -1, 0
        for first in range(0, self.n_rows, TOKEN_ROWS_PER_CHUNK):
            rows_N = np.arange(first, min(first + TOKEN_ROWS_PER_CHUNK, self.n_rows))
            fields = {name: self._values(name, rows_N) for name in self._given}
            document_N = np.asarray(fields.get("document", rows_N), np.int64)
            steps_N = np.diff(document_N, prepend=last_document)
            if steps_N.min() < 0:
                row = max(0, first + int(np.argmin(steps_N)) - 1)
                raise UnfitRows(f"tokens: document falls after row {row}; a document's rows lie together")
            starts_N = np.maximum.accumulate(np.where(steps_N > 0, rows_N, start_row))
            last_document, start_row = int(document_N[-1]), int(starts_N[-1])
            zeros_N = np.zeros(len(rows_N))
            left_out = {"token_id": zeros_N, "position": rows_N - starts_N, "flags": zeros_N}
            block = {**left_out, **fields, "document": document_N}
            yield {name: np.ascontiguousarray(block[name], kind) for name, kind in TOKEN_FIELDS.items()}

    def _values(self, name: str, rows_N: np.ndarray) -> np.ndarray:
        values_N = self._given[name][int(rows_N[0]) : int(rows_N[-1]) + 1]
        if values_N.min() < 0 or values_N.max() > _LARGEST[name]:
            raise UnfitRows(
                f"tokens: {name}: from {values_N.min()} to {values_N.max()}; allowed: 0 to {_LARGEST[name]}"
            )
        return values_N

    def survey(self) -> Survey:
        """Documents and words. Raises: UnfitRows as `blocks`, and at more words than a store can name."""
        n_documents, last_document = 0, -1
        words = np.zeros(0, np.int32)
        for block in self.blocks():
            n_documents += int(np.count_nonzero(np.diff(block["document"], prepend=last_document)))
            last_document = int(block["document"][-1])
            words = np.union1d(words, block["token_id"])
            if len(words) > MAX_WORDS:
                raise UnfitRows(f"tokens: token_id: more than {MAX_WORDS:,} different ones, which no tokenizer has")
        return Survey(n_documents, words.tolist())

    def splits(self, n_documents: int, heldout: float) -> dict[str, tuple[int, int]]:
        """The last share of the documents as `heldout`, the rows before them as `train`. Raises: StoreError."""
        if not 0 <= heldout < 1:
            raise StoreError(f"heldout: {heldout} is no share of the documents; allowed: from 0 to below 1")
        first = n_documents - int(n_documents * heldout)
        seen, last_document, cut = 0, -1, self.n_rows
        for number, block in enumerate(self.blocks()):
            starts_N = np.flatnonzero(np.diff(block["document"], prepend=last_document))
            if seen + len(starts_N) > first:
                cut = number * TOKEN_ROWS_PER_CHUNK + int(starts_N[first - seen])
                break
            seen, last_document = seen + len(starts_N), int(block["document"][-1])
        return {"train": (0, cut), "heldout": (cut, self.n_rows)}
