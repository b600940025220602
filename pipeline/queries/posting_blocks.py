"""All codes of an SAE, latent by latent, some latents in memory at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from strata_sae.stores import CodesStore

PAIRS_AT_ONCE = 2**22
"""Rows of latents that are in memory together: 67 MB; more only where one latent fires on more."""


class PostingBlock(NamedTuple):
    """The pairs of some latents, latent by latent."""

    first: int
    """The first of the latents."""
    offset: np.ndarray
    """int64 [latents + 1], from 0."""
    rows: np.ndarray
    """int64, rising in a latent."""
    values: np.ndarray
    """float32."""


def posting_blocks(codes: CodesStore) -> Iterator[PostingBlock]:
    """All latents, some at a time, rising."""
    ends_E, first = np.cumsum(codes.count_E), 0
    while first < len(ends_E):
        done = int(ends_E[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends_E, done + PAIRS_AT_ONCE, "right")))
        yield PostingBlock(first, *codes.postings(first, last))
        first = last
