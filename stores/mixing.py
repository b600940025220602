"""How well a window mixes documents, stated as a number instead of the word "shuffled"."""

import numpy as np


def predicted_variance_ratio(
    document_starts: np.ndarray, rows_per_block: int, blocks_per_window: int, batch_size: int
) -> float:
    """Variance of a batch mean over that of a perfect shuffle, for a signal that is constant within a document.

    1 is a perfect shuffle; 2 means that batches of this size are as noisy as perfect ones of half the size.
    Expectation over random windows of whole blocks: two rows of a window share a document with probability
    (sum_d E[c_d^2] - n) / (n (n - 1)), c_d being the window's rows of document d.

    Args:
        document_starts: first row of every document in plan order, and the number of rows at the end, int64 [D + 1].

    """
    n_rows = int(document_starts[-1])
    n_blocks = -(-n_rows // rows_per_block)
    window = min(blocks_per_window, n_blocks)
    lengths = np.diff(document_starts).astype(np.float64)
    cuts = np.union1d(document_starts, np.arange(0, n_rows, rows_per_block))
    within_block = float(np.square(np.diff(cuts).astype(np.float64)).sum())
    in_all = float(np.square(lengths).sum())
    chosen = window / n_blocks
    chosen_both = chosen * (window - 1) / (n_blocks - 1) if n_blocks > 1 else chosen
    expected = chosen * within_block + chosen_both * (in_all - within_block)
    n_window = chosen * n_rows
    return _batch_variance(expected, n_window, batch_size) / _batch_variance(in_all, n_rows, batch_size)


def _batch_variance(sum_of_squares: float, n_rows: float, batch_size: int) -> float:
    same_document = (sum_of_squares - n_rows) / (n_rows * (n_rows - 1)) if n_rows > 1 else 1.0
    return (1 + (batch_size - 1) * same_document) / batch_size


def documents_per_window(document_starts: np.ndarray, rows_per_block: int, blocks_per_window: int) -> float:
    """About how many documents a window holds: blocks times the documents that touch one."""
    n_rows = int(document_starts[-1])
    blocks = np.arange(0, n_rows, rows_per_block)
    first = np.searchsorted(document_starts, blocks, side="right")
    last = np.searchsorted(document_starts, np.minimum(blocks + rows_per_block, n_rows) - 1, side="right")
    return min(float(len(document_starts) - 1), float((last - first + 1).mean()) * min(blocks_per_window, len(blocks)))
