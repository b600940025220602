"""How well a window mixes documents, stated as a number instead of the word "shuffled"."""

import numpy as np


def predicted_variance_ratio(
    document_starts: np.ndarray, rows_per_block: int, blocks_per_window: int, batch_size: int
) -> float:
    """Variance of a batch mean over that of a perfect shuffle, for a signal that is constant within a document.

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
    """The same from sums of squares: of the rows of each document in all, and of those in each block.

    The mean over the batches of an epoch, whose windows are blocks drawn at random, the last one smaller. Two rows of a
    batch that lie in one window share a document more often than two of different windows. Around the corpus' own mean:
    what every batch has in common is no noise.
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
    """Chance that two rows of a window of so many blocks share a document."""
    rows = blocks / n_blocks * n_rows
    pairs = blocks / n_blocks * (within_blocks - n_rows)
    if blocks > 1:
        pairs += blocks * (blocks - 1) / (n_blocks * (n_blocks - 1)) * (in_all - within_blocks)
    return pairs / (rows * (rows - 1)) if rows > 1 else 0.0


def documents_per_window(document_starts: np.ndarray, rows_per_block: int, blocks_per_window: int) -> float:
    """About how many documents a window holds: blocks times the documents that touch one."""
    n_rows = int(document_starts[-1])
    blocks = np.arange(0, n_rows, rows_per_block)
    first = np.searchsorted(document_starts, blocks, side="right")
    last = np.searchsorted(document_starts, np.minimum(blocks + rows_per_block, n_rows) - 1, side="right")
    return min(float(len(document_starts) - 1), float((last - first + 1).mean()) * min(blocks_per_window, len(blocks)))
