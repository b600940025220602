"""Does the loader mix? Counts that are functions of the step."""

import numpy as np

from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import Filters
from strata_sae.stores.serving.documents_of_rows import Runs, Tally, counted, passing_rows, read_runs
from strata_sae.stores.serving.mixing import variance_ratio


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
    """What a batch of a split should hold if rows were shuffled perfectly, and what it holds.

    Memory: 32 bytes a document (a row, where rows were stored shuffled). Built by two passes over the token map.
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
        """A batch beside what a perfect shuffle gives on average; 1 is as good. A function of the row numbers alone.

        `variance_ratio`: squared distance of the batch's mean from the corpus', for a signal constant within documents.
        """
        run, positions = self._runs.of(numbers)
        documents, counts = np.unique(self._runs.document[run], return_counts=True)
        n_positions = len(np.unique(positions))
        n = len(numbers)
        common = self._in_all / self.n_rows**2
        shared = 2 * float(self._run_rows[run].sum()) / (n * self.n_rows)
        spread = float(np.square(counts.astype(np.float64)).sum()) / n**2 - shared + common
        # Of n rows drawn without replacement, around the mean of all rows.
        perfect = (1 - common) / n * (self.n_rows - n) / max(self.n_rows - 1, 1)
        return {
            "documents": len(documents),
            "documents_ratio": float(len(documents) / self.documents),
            "positions": n_positions,
            "positions_ratio": float(n_positions / self.positions),
            "variance_ratio": spread / perfect if perfect > 0 else 1.0,
        }

    def predicted_variance_ratio(self, blocks_per_window: int) -> float:
        """The mean of `variance_ratio` over an epoch, from the sizes of documents and windows; see `stores.mixing`."""
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
    """Diagnostics for batches of a split; None where rows lie too scattered to know all their documents in memory."""
    runs = read_runs(store, split)
    return None if runs is None else BatchMixing(store, site, split, filters, batch_size, runs)


def _sum_of_squares(blocks: np.ndarray, documents: np.ndarray, counts: np.ndarray) -> float:
    """Over (block, document): the square of the rows counted for it."""
    _, place = np.unique(documents, return_inverse=True)
    key = (blocks - blocks[0]) * (int(place.max()) + 1) + place
    _, pair = np.unique(key, return_inverse=True)
    return float(np.square(np.bincount(pair, counts)).sum())
