"""Numbers that rise within each of many stretches, written as the gap to the one before: a third less to store.

The first of a stretch is written as it is. P numbers of all of them, one stretch after the other.
"""

from collections.abc import Iterator

import numpy as np

from strata_sae.stores.errors import StoreError

_BLOCK_ENTRIES = 2**18
"""Handled at once: what is made on the way stays in a core's cache."""


def gaps_of(numbers_P: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Gaps, int64 [P], of numbers [P] whose stretch s is [offset[s], offset[s + 1]); the first offset is 0."""
    numbers_P = numbers_P.astype(np.int64)
    gaps_P = np.diff(numbers_P, prepend=0)
    starts = _starts(offset)
    gaps_P[starts] = numbers_P[starts]
    return gaps_P


def numbers_of(gaps_P: np.ndarray, offset: np.ndarray, limit: int, what: str) -> np.ndarray:
    """Numbers, int64 [P], of gaps [P]; the inverse of `gaps_of`.

    Raises: StoreError, with `what` they are, unless they rise in each stretch and stay below `limit`.
    """
    gaps_P = gaps_P.astype(np.int64)
    check_rising(gaps_P, offset, what)
    sums_P = np.cumsum(gaps_P)  # of 2^32 numbers below 2^32 it would take more memory than there is to leave int64
    starts = _starts(offset)
    counts = np.diff(offset)
    numbers_P = sums_P - np.repeat(sums_P[starts] - gaps_P[starts], counts[counts > 0])
    if len(numbers_P) and int(numbers_P.max()) >= limit:
        raise StoreError(f"{what}: {int(numbers_P.max())} is beyond the last one, {limit - 1}")
    return numbers_P


def check_rising(gaps_P: np.ndarray, offset: np.ndarray, what: str) -> None:
    """Raises: StoreError if a number does not lie above the one before it in its stretch, or a first one below 0."""
    still_P = gaps_P <= 0
    starts = _starts(offset)
    still_P[starts] = gaps_P[starts] < 0
    if still_P.any():
        raise StoreError(f"{what}: do not rise from entry {int(np.argmax(still_P))} of a block on")


def check_offsets(offset: np.ndarray, most: int, what: str) -> None:
    """Raises: StoreError unless offsets never fall, and stay in 0..most."""
    if len(offset) and (offset[0] < 0 or offset[-1] > most or (np.diff(offset) < 0).any()):
        raise StoreError(f"{what}: are no offsets into {most} entries")


def blocks(offset: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs [first, last) of stretches that cover all, with about 2^18 entries each; one that is longer is alone."""
    first, n_stretches = 0, len(offset) - 1
    while first < n_stretches:
        last = int(np.searchsorted(offset, int(offset[first]) + _BLOCK_ENTRIES, "right")) - 1
        last = min(max(last, first + 1), n_stretches)
        yield first, last
        first = last


def _starts(offset: np.ndarray) -> np.ndarray:
    """Where the stretches begin that are not empty."""
    return offset[:-1][np.diff(offset) > 0]
