"""Which document and position a row comes from, in memory: as runs, because rows of a document lie side by side."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import Filters

_ROWS_PER_PIECE = 2**16
_MERGE_AT = 2**20
MAX_RUNS = 2**25
"""Runs that are kept, 32 bytes each: 1 GiB. A run is a document, or a single row where rows were stored shuffled."""


class Tally:
    """How often each value occurs, added up a piece at a time."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._held, self._limit = 0, _MERGE_AT

    def add(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Count values, each `counts` times; a value may come again."""
        self._parts.append((values, counts))
        self._held += len(values)
        if self._held > self._limit:
            merged, _ = self.result()
            self._limit = max(_MERGE_AT, 2 * len(merged))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """The values, rising, and how often each was counted (int64)."""
        values = np.concatenate([np.zeros(0, np.int64), *(values for values, _ in self._parts)])
        counts = np.concatenate([np.zeros(0, np.int64), *(counts for _, counts in self._parts)])
        merged, places = np.unique(values, return_inverse=True)
        sums = np.bincount(places, counts, minlength=len(merged)).astype(np.int64)
        self._parts, self._held = [(merged, sums)], len(merged)
        return merged, sums


def counted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, rising, and how often each; values are positions, small as a rule."""
    if values.min() < 0 or values.max() > 4 * _ROWS_PER_PIECE:
        return np.unique(values, return_counts=True)
    counts = np.bincount(values)  # ten times faster than sorting
    found = np.flatnonzero(counts)
    return found, counts[found]


class Piece(NamedTuple):
    """Rows that pass the filters, out of one stretch of a split."""

    numbers: np.ndarray
    documents: np.ndarray
    positions: np.ndarray


class Runs(NamedTuple):
    """Stretches of rows of one document at rising positions, filtered or not."""

    first_row: np.ndarray
    document: np.ndarray
    first_position: np.ndarray

    def of(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The run and the position of each row."""
        run = np.searchsorted(self.first_row, numbers, side="right") - 1
        return run, self.first_position[run] + (numbers - self.first_row[run])


def read_runs(store: ActivationStore, split: str) -> Runs | None:
    """The runs of a split, from one pass over its token map; None if there are more than MAX_RUNS."""
    parts: list[tuple[np.ndarray, ...]] = []
    n_runs, last = 0, (-1, -1)
    start, stop = store.plan.splits[split]
    for first in range(start, stop, _ROWS_PER_PIECE):
        end = min(first + _ROWS_PER_PIECE, stop)
        documents, positions = (store.token_map(field, first, end) for field in ("document", "position"))
        begins = np.concatenate(
            [[(int(documents[0]), int(positions[0])) != (last[0], last[1] + 1)], np.diff(documents) != 0]
        )
        begins[1:] |= np.diff(positions) != 1
        found = np.flatnonzero(begins)
        parts.append((first + found, documents[found], positions[found].astype(np.int64)))
        last = int(documents[-1]), int(positions[-1])
        n_runs += len(found)
        if n_runs > MAX_RUNS:
            return None
    empty = (np.zeros(0, np.int64),) * 3
    return Runs(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def passing_rows(store: ActivationStore, site: str, split: str, filters: Filters) -> Iterator[Piece]:
    """The rows of a split that pass the filters, in order, whole blocks at a time."""
    mask, size = store.mask(site, split, filters), store.plan.rows_per_chunk
    start, stop = store.plan.splits[split]
    blocks_per_piece = max(1, _ROWS_PER_PIECE // size)
    for block in range(start // size, -(-stop // size), blocks_per_piece):
        some = mask.blocks[slice(*np.searchsorted(mask.blocks, [block, block + blocks_per_piece]))].tolist()
        if some:
            numbers = np.concatenate([mask.rows_in(block) + block * size for block in some])
            first, end = int(numbers[0]), int(numbers[-1]) + 1
            documents, positions = (store.token_map(field, first, end) for field in ("document", "position"))
            yield Piece(numbers, documents[numbers - first], positions[numbers - first])
