"""How well batches mix documents: counted, and beside what a perfect shuffle would give."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import Filters

_ROWS_PER_PIECE = 2**16
_MERGE_AT = 2**20
MAX_RUNS = 2**25
"""Most runs that are kept, 32 bytes each: 1 GiB. A run is a document, or one row where rows were stored shuffled."""


class Tally:
    """Counts how often each value occurs, over many pieces."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._held, self._limit = 0, _MERGE_AT

    def add(self, values: np.ndarray, counts: np.ndarray) -> None:
        """Count each value `counts` more times."""
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
    """The values that occur, rising, and how often each occurs. Values are positions, small as a rule."""
    if values.min() < 0 or values.max() > 4 * _ROWS_PER_PIECE:
        return np.unique(values, return_counts=True)
    counts = np.bincount(values)  # ten times faster than sorting
    occurring = np.flatnonzero(counts)
    return occurring, counts[occurring]


class Piece(NamedTuple):
    """Rows of one stretch of a split that pass the filters."""

    numbers: np.ndarray
    documents: np.ndarray
    positions: np.ndarray


class Runs(NamedTuple):
    """Documents and positions of rows, kept as runs: stretches of one document's rows at rising positions.

    Filtered rows are in them, too.
    """

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
        starts = np.flatnonzero(begins)
        parts.append((first + starts, documents[starts], positions[starts].astype(np.int64)))
        last = int(documents[-1]), int(positions[-1])
        n_runs += len(starts)
        if n_runs > MAX_RUNS:
            return None
    empty = (np.zeros(0, np.int64),) * 3
    return Runs(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def passing_rows(store: ActivationStore, site: str, split: str, filters: Filters) -> Iterator[Piece]:
    """The rows of a split that pass the filters, in order, some whole blocks at a time."""
    mask, size = store.mask(site, split, filters), store.plan.rows_per_chunk
    start, stop = store.plan.splits[split]
    blocks_per_piece = max(1, _ROWS_PER_PIECE // size)
    for block in range(start // size, -(-stop // size), blocks_per_piece):
        passing = mask.blocks[slice(*np.searchsorted(mask.blocks, [block, block + blocks_per_piece]))].tolist()
        if passing:
            numbers = np.concatenate([mask.rows_in(block) + block * size for block in passing])
            first, end = int(numbers[0]), int(numbers[-1]) + 1
            documents, positions = (store.token_map(field, first, end) for field in ("document", "position"))
            yield Piece(numbers, documents[numbers - first], positions[numbers - first])


def expected_distinct(group_rows: np.ndarray, batch_size: int) -> float:
    """Groups met on average by `batch_size` rows drawn without replacement: sum_g 1 - C(N - n_g, B) / C(N, B).

    Args:
        group_rows: rows n_g of every group; N is their sum.

    """
    n_rows = int(group_rows.sum())
    sizes, counts = np.unique(group_rows, return_counts=True)
    left = (n_rows - np.arange(batch_size)).astype(np.float64)
    total = 0.0
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        met = -np.expm1(np.log1p(-size / left).sum()) if size <= n_rows - batch_size else 1.0
        total += count * float(met)
    return total


class BatchMixing:
    """Documents and positions in a batch of a split, beside those in a batch of a perfect shuffle.

    Memory: 32 bytes a document (a row, where rows were stored shuffled). Reads the token map twice when it is made.
    """

    def __init__(
        self, store: ActivationStore, site: str, split: str, filters: Filters, batch_size: int, runs: Runs
    ) -> None:
        documents, positions = Tally(), Tally()
        self._within_blocks, blocks = 0.0, 0
        size = store.plan.rows_per_chunk
        for piece in passing_rows(store, site, split, filters):
            block = piece.numbers // size
            begins = np.flatnonzero(np.concatenate([[True], (np.diff(block) != 0) | (np.diff(piece.documents) != 0)]))
            counts = np.diff(np.append(begins, len(block)))
            documents.add(piece.documents[begins], counts)
            positions.add(*counted(piece.positions))
            self._within_blocks += _sum_of_squares(block[begins], piece.documents[begins], counts)
            blocks += len(np.unique(block[begins]))
        self._runs, self._blocks, self._batch_size = runs, blocks, batch_size
        names, self._document_rows = documents.result()
        self.n_rows = int(self._document_rows.sum())
        """Rows of an epoch."""
        self._run_rows = self._document_rows[np.searchsorted(names, runs.document).clip(max=len(names) - 1)]
        self._in_all = float(np.square(self._document_rows.astype(np.float64)).sum())
        self.documents = expected_distinct(self._document_rows, batch_size)
        """Documents in a batch of a perfect shuffle, on average."""
        self.positions = expected_distinct(positions.result()[1], batch_size)
        """Different positions in one."""

    def measure(self, numbers: np.ndarray) -> dict[str, float]:
        """Measures of a batch over their averages in a perfect shuffle; 1 is as good. Depends on row numbers alone.

        `variance_ratio`: squared distance of the batch's mean from the corpus's, for a signal constant in a document.
        """
        run, positions = self._runs.of(numbers)
        documents, counts = np.unique(self._runs.document[run], return_counts=True)
        n_positions = len(np.unique(positions))
        n = len(numbers)
        common = self._in_all / self.n_rows**2
        shared = 2 * float(self._run_rows[run].sum()) / (n * self.n_rows)
        spread = float(np.square(counts.astype(np.float64)).sum()) / n**2 - shared + common
        # The same of n rows drawn without replacement.
        perfect = (1 - common) / n * (self.n_rows - n) / max(self.n_rows - 1, 1)
        return {
            "documents": len(documents),
            "documents_ratio": float(len(documents) / self.documents),
            "positions": n_positions,
            "positions_ratio": float(n_positions / self.positions),
            "variance_ratio": spread / perfect if perfect > 0 else 1.0,
        }

    def predicted_variance_ratio(self, blocks_per_window: int) -> float:
        """The mean of `variance_ratio` over an epoch, from the sizes of documents and windows; see `variance_ratio`."""
        return variance_ratio(
            within_blocks=self._within_blocks,
            in_all=self._in_all,
            n_rows=self.n_rows,
            n_blocks=self._blocks,
            blocks_per_window=blocks_per_window,
            batch_size=self._batch_size,
        )


def batch_mixing(
    store: ActivationStore, site: str, split: str, filters: Filters, batch_size: int
) -> BatchMixing | None:
    """Mixing of the batches of a split; None if its rows make more than MAX_RUNS runs, too many for memory."""
    runs = read_runs(store, split)
    return None if runs is None else BatchMixing(store, site, split, filters, batch_size, runs)


def _sum_of_squares(blocks: np.ndarray, documents: np.ndarray, counts: np.ndarray) -> float:
    """Sum over pairs (block, document) of the squared number of rows in both."""
    _, place = np.unique(documents, return_inverse=True)
    key = (blocks - blocks[0]) * (int(place.max()) + 1) + place
    _, pair = np.unique(key, return_inverse=True)
    return float(np.square(np.bincount(pair, counts)).sum())


def predicted_variance_ratio(
    document_starts: np.ndarray, rows_per_block: int, blocks_per_window: int, batch_size: int
) -> float:
    """Variance of a batch mean over that in a perfect shuffle, for a signal that is constant within a document.

    1 is a perfect shuffle; 2 means that batches of this size are as noisy as perfect ones of half the size.

    Args:
        document_starts: first row of every document in plan order, and the number of rows at the end, int64 [D + 1].

    """
    n_rows = int(document_starts[-1])
    cuts = np.union1d(document_starts, np.arange(0, n_rows, rows_per_block))
    return variance_ratio(
        within_blocks=float(np.square(np.diff(cuts).astype(np.float64)).sum()),
        in_all=float(np.square(np.diff(document_starts).astype(np.float64)).sum()),
        n_rows=n_rows,
        n_blocks=-(-n_rows // rows_per_block),
        blocks_per_window=blocks_per_window,
        batch_size=batch_size,
    )


def variance_ratio(
    *, within_blocks: float, in_all: float, n_rows: int, n_blocks: int, blocks_per_window: int, batch_size: int
) -> float:
    """`predicted_variance_ratio` from two sums of squares: of each document's rows in all, and in each block.

    The mean over the batches of an epoch, whose windows are blocks drawn at random, the last one smaller. Two rows of a
    batch that lie in one window share a document more often than two of different windows. Variance is taken around the
    mean of the corpus, since what all batches have in common is no noise.
    """
    common = in_all / n_rows**2
    overall = (in_all - n_rows) / max(n_rows * (n_rows - 1), 1)
    perfect = (1 + (batch_size - 1) * overall) / batch_size - common
    if perfect <= 0:
        return 1.0
    apart = (in_all - within_blocks) / (n_rows**2 * (1 - 1 / n_blocks)) if n_blocks > 1 else 0.0
    window = min(blocks_per_window, n_blocks)
    sizes = np.full(-(-n_blocks // window), window)
    sizes[-1] = n_blocks - window * (len(sizes) - 1)
    ends = np.rint(np.cumsum(sizes) * (n_rows / n_blocks)).astype(np.int64)
    n_batches = max(n_rows // batch_size, 1)
    cuts = np.union1d(ends, np.arange(n_batches + 1) * batch_size)
    cuts = cuts[cuts <= n_batches * batch_size]
    piece = np.diff(cuts).astype(np.float64)
    pairs = np.bincount(np.searchsorted(ends, cuts[:-1], side="right"), piece * (piece - 1), len(sizes))
    together = np.array([_same_document(n, within_blocks, in_all, n_rows, n_blocks) for n in sizes[[0, -1]].tolist()])
    shared = float(pairs[:-1].sum() * together[0] + pairs[-1] * together[1])
    rest = n_batches * batch_size * (batch_size - 1) - float(pairs.sum())
    return ((1 + (shared + rest * apart) / (n_batches * batch_size)) / batch_size - common) / perfect


def _same_document(blocks: int, within_blocks: float, in_all: float, n_rows: int, n_blocks: int) -> float:
    """Chance that two rows of a window of `blocks` blocks are of one document."""
    rows = blocks / n_blocks * n_rows
    pairs = blocks / n_blocks * (within_blocks - n_rows)
    if blocks > 1:
        pairs += blocks * (blocks - 1) / (n_blocks * (n_blocks - 1)) * (in_all - within_blocks)
    return pairs / (rows * (rows - 1)) if rows > 1 else 0.0


def documents_per_window(document_starts: np.ndarray, rows_per_block: int, blocks_per_window: int) -> float:
    """Expected documents in a window: its blocks times the mean number of documents in a block."""
    n_rows = int(document_starts[-1])
    blocks = np.arange(0, n_rows, rows_per_block)
    first = np.searchsorted(document_starts, blocks, side="right")
    last = np.searchsorted(document_starts, np.minimum(blocks + rows_per_block, n_rows) - 1, side="right")
    return min(float(len(document_starts) - 1), float((last - first + 1).mean()) * min(blocks_per_window, len(blocks)))
