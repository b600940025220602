"""A vector a document: the mean of its rows, from the store alone."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.encodings import to_float32
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import Filters, RowMask

_BATCH_ROWS = 4096
"""Rows in memory at once: as float64, 128 MiB at a width of 4,096."""


class Pooled(NamedTuple):
    """D documents, by their numbers, rising."""

    document: np.ndarray
    """int64 [D]: as `token_map("document", ...)` gives them."""
    n_rows: np.ndarray
    """int64 [D]: how many rows each mean is of, one or more."""
    mean: np.ndarray
    """float32 [D, M]."""


def pool(store: ActivationStore, site: str, split: str | None = None, filters: Filters | None = None) -> Pooled:
    """The mean of each document's rows at a site, as HypotheSAEs' users make of token rows.

    A document none of whose rows passes the filters is left out. One that was drawn several times (`corpus.repeat`)
    is one document. Sums are float64; memory beside the store: 12 bytes a document and column, and 4,096 rows.

    Args:
        split: `train` or `heldout`; None: every row of the store.
        filters: rows to leave out, such as `Filters(drop_bos=True)`; None: every row counts.
    Raises: StoreError for a site or split that the store does not have, or where no row passes.

    """
    filters = filters or Filters()
    store.values(site)  # the error that names the sites, before anything is read
    names = list(store.plan.splits) if split is None else [split]
    masks = [(name, store.mask(site, name, filters)) for name in names]
    found = [np.unique(some) for _, mask in masks for some in _documents(store, mask)]
    if not found:
        raise StoreError(f"{store.path}: no row of {', '.join(names)} passes the filters {filters.key()}")
    documents = np.unique(np.concatenate(found))
    n_rows = np.zeros(len(documents), np.int64)
    sums = np.zeros((len(documents), store.plan.sites[site]), np.float64)
    for name, mask in masks:
        for rows, numbers_B in store.in_order(site, name, filters, _BATCH_ROWS, mask):
            here_B = np.searchsorted(documents, _at(store, numbers_B))
            order_B = np.argsort(here_B, kind="stable")
            places, first, counts = np.unique(here_B[order_B], return_index=True, return_counts=True)
            n_rows[places] += counts
            sums[places] += np.add.reduceat(to_float32(rows)[order_B], first, axis=0, dtype=np.float64)
    return Pooled(documents, n_rows, (sums / n_rows[:, None]).astype(np.float32))


def _documents(store: ActivationStore, mask: RowMask) -> Iterator[np.ndarray]:
    """Document of every row that passes, a block at a time."""
    for block in mask.blocks.tolist():
        yield _at(store, mask.rows_in(block) + block * store.plan.rows_per_chunk)


def _at(store: ActivationStore, numbers_B: np.ndarray) -> np.ndarray:
    """Documents of rising row numbers."""
    start = int(numbers_B[0])
    return np.asarray(store.token_map("document", start, int(numbers_B[-1]) + 1)[numbers_B - start])
