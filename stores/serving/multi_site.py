"""Several sites read side by side: row n of a batch of one is the same token as row n of a batch of the others."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import Filters, RowMask
from strata_sae.stores.serving.batches import Batches
from strata_sae.stores.serving.clock import LoaderClock

_THREADS = 2
"""Threads of each stream."""

Sites = Sequence[tuple[ActivationStore, str]]
"""Sites, each with the store that holds it. The stores are row-aligned (see `stores.together`)."""


def joint_mask(sites: Sites, split: str, filters: Filters) -> RowMask:
    """The rows of a split that pass the filters at every site.

    Flags are of tokens, hence the same for all; a norm limit is of a site, and the mask then names those it is of.
    """
    store, site = sites[0]
    mask = store.mask(site, split, filters)
    if filters.max_norm_multiple is None or len(sites) == 1:
        return mask
    for other, name in sites[1:]:
        mask &= other.mask(name, split, filters)
    mask.limited_by = tuple(sorted(name for _, name in sites))
    return mask


class JoinedBatches:
    """`Batches` of several sites with one mask: a pure function of the step, too.

    Without a norm limit they hold the rows that `Batches` of any one of the sites would.
    """

    def __init__(
        self,
        sites: Sites,
        *,
        split: str = "train",
        filters: Filters | None = None,
        seed: int = 0,
        batch_size: int = 2048,
        window_rows: int = 2**20,
        shared: Path | None = None,
    ) -> None:
        """Open a stream of each site; the arguments are those of `Batches`, which see. Raises: StoreError."""
        filters = filters or Filters()
        mask = joint_mask(sites, split, filters)
        self.streams: list[Batches] = []
        self.clock = LoaderClock(_THREADS)
        """How long reading took so far, all streams together."""
        try:
            for store, site in sites:
                stream = Batches(
                    store,
                    site,
                    split=split,
                    filters=filters,
                    seed=seed,
                    batch_size=batch_size,
                    window_rows=window_rows,
                    shared=shared,
                    mask=mask,
                    threads=_THREADS,
                    clock=self.clock,
                )
                self.streams.append(stream)
        except BaseException:
            self.close()
            raise
        self.n_rows, self.blocks_per_window = self.streams[0].n_rows, self.streams[0].blocks_per_window

    def batch(self, step: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Rows [B, M] of each site in turn, and their row numbers [B]; read-only and valid until the next call."""
        parts = [stream.batch(step) for stream in self.streams]
        return [rows for rows, _ in parts], parts[0][1]

    def close(self) -> None:
        """Stop the threads of every stream."""
        for stream in self.streams:
            stream.close()

    def __enter__(self) -> "JoinedBatches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def joined_in_order(
    sites: Sites, split: str, filters: Filters, batch_size: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Batches of a split in plan order, every row that passes at all sites once: rows of each site, and numbers."""
    mask = joint_mask(sites, split, filters)
    streams = [store.in_order(site, split, filters, batch_size, mask) for store, site in sites]
    for parts in zip(*streams, strict=True):
        yield [rows for rows, _ in parts], parts[0][1]
