"""Mixed batches of rows: `batch(step)` is a pure function, so a resumed or added trainer sees the very same rows."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypedDict, Unpack

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, canonical_json
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import Filters, RowMask, permutation
from strata_sae.stores.serving.shared_windows import SharedWindows
from strata_sae.stores.serving.windows import LoaderClock, PrivateWindows, WindowBuffer, WindowFiller, Windows

Sites = Sequence[tuple[ActivationStore, str]]
"""Sites, each with the store that holds it. The stores are row-aligned (see `stores.front.aligned`)."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Which rows a stream serves, in which batches (the first five), and how it reads them (the last two)."""

    split: str = "train"
    filters: Filters = field(default_factory=Filters)
    """Rows left out."""
    seed: int = 0
    """Names one of the orders of the rows."""
    batch_size: int = 2048
    """Rows of a batch (count)."""
    window_rows: int = 2**20
    """Rows mixed together in memory (count), rounded down to whole blocks, at least one."""
    threads: int = 2
    """Threads that fill a window (count)."""
    shared: Path | None = None
    """A folder in memory (/dev/shm) or on a disk, where processes that read the same stream share windows."""


class StreamOptions(TypedDict, total=False):
    """Fields of `StreamSettings` as keywords: `Batches(store, site, batch_size=64)`; see decision 0022."""

    split: str
    filters: Filters
    seed: int
    batch_size: int
    window_rows: int
    threads: int
    shared: Path | None


_Exception = type[BaseException] | BaseException | TracebackType | None
"""Arguments of `__exit__`."""


class _Epoch(NamedTuple):
    blocks: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    """Rows served before each window of the epoch, and after the last."""


class Batches(AbstractContextManager["Batches"]):
    """An endless stream of batches from one site and split: `Batches(store, site, batch_size=64, seed=1).batch(step)`.

    Blocks of rows are permuted over an epoch, `window_rows` rows at a time are copied into memory and mixed there, and
    batches are cut from the stream of mixed rows. Every row is served once an epoch; a batch may span two epochs.
    The order depends on the plan, split, filters, seed and window alone: not on the site, threads or resume points.
    """

    def __init__(
        self,
        store: ActivationStore,
        site: str,
        settings: StreamSettings = StreamSettings(),
        *,
        mask: RowMask | None = None,
        clock: LoaderClock | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        """Open a stream.

        Args:
            settings: which rows, in which batches.
            mask: rows to serve; None: all that pass the filters (see `joint_mask`).
            clock: one that several streams share; None: a clock of this stream.
            options: single settings, in the place of those of `settings`.
        Raises: StoreError if the split has fewer rows than a batch, or if there is no room for shared windows.

        """
        self.settings = settings = replace(settings, **options)
        self._mask = mask or store.mask(site, settings.split, settings.filters)
        self.n_rows = self._mask.n_rows
        """Rows of an epoch."""
        if settings.batch_size > self.n_rows:
            raise StoreError(
                f"{store.path}: a batch of {settings.batch_size} rows is larger than split {settings.split!r}, which "
                f"has {self.n_rows} rows after the filters; lower training.batch_size"
            )
        size = store.plan.rows_per_chunk
        self.blocks_per_window = max(1, min(settings.window_rows // size, len(self._mask.blocks)))
        limits: dict[str, Json] = {"limited_by": [*self._mask.limited_by]} if self._mask.limited_by else {}
        rows_key: dict[str, Json] = {**settings.filters.key(), **limits}
        self._key: list[Json] = [store.plan.order_id, settings.split, rows_key, settings.seed, self.blocks_per_window]
        threads = settings.threads
        self.clock = clock or LoaderClock(threads)
        """Time spent on reading so far."""
        self._pool = ThreadPoolExecutor(threads + 1, thread_name_prefix="strata-window")
        self._values = store.values(site)
        self._filler = WindowFiller(self._values, self._mask, self._pool, threads, self.clock)
        self._windows_per_epoch = -(-len(self._mask.blocks) // self.blocks_per_window)
        self._mixes: dict[int, Future[np.ndarray]] = {}
        self._epochs: dict[int, _Epoch] = {}
        if settings.shared is None:
            self._windows = self._private_windows()
        else:
            self._windows = self._shared_windows(settings.shared, [store.id, site])

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [B, M] as stored and their row numbers [B] (int64), read-only and valid until the next call.

        Raises: StoreError if a chunk is damaged.
        """
        batch_size = self.settings.batch_size
        epoch, offset = divmod(step * batch_size, self.n_rows)
        rows, numbers = self._piece(epoch, offset, batch_size)
        if len(rows) == batch_size:
            rows.flags.writeable = numbers.flags.writeable = False
            return rows, numbers
        joined = np.empty((batch_size, rows.shape[1]), rows.dtype), np.empty(batch_size, np.int64)
        done = 0
        while True:
            # A piece is copied at once, since the next window may overwrite it.
            joined[0][done : done + len(rows)], joined[1][done : done + len(rows)] = rows, numbers
            done += len(rows)
            if done == batch_size:
                return joined
            next_epoch, offset = divmod(offset + len(rows), self.n_rows)
            epoch += next_epoch
            rows, numbers = self._piece(epoch, offset, batch_size - done)

    def close(self) -> None:
        """Stop the threads; batches from shared windows are no longer valid."""
        self._filler.stop()
        self._windows.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __exit__(self, *exception: _Exception) -> None:
        self.close()

    def _private_windows(self) -> Windows:
        buffers = [self._filler.new_buffer(self.blocks_per_window) for _ in range(2)]
        return PrivateWindows(buffers, self._filling, self._pool)

    def _shared_windows(self, folder: Path, rows: list[str]) -> Windows:
        """`rows`: what names the stored rows; the key names them and their order."""
        key = sha256(canonical_json([*rows, self._key, self._values.coded_dtype.str]))
        n_blocks, filler = self.blocks_per_window, self._filler
        n_bytes = filler.buffer_bytes(n_blocks)
        return SharedWindows(
            folder, key, n_bytes, partial(filler.buffer_in, n_blocks=n_blocks), self._filling, self._pool
        )

    def _piece(self, epoch: int, offset: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to `wanted` rows from `offset` of an epoch, all of one window, and their numbers; views where possible."""
        starts = self._epoch(epoch).starts
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        buffer = self._window(epoch, window)
        start = int(starts[window])
        piece = slice(offset - start, min(offset + wanted, int(starts[window + 1])) - start)
        scales = None if buffer.scales is None else buffer.scales[piece]
        return self._values.decoded(buffer.rows[piece], scales), buffer.numbers[piece]

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            order = permutation([*self._key, "blocks", epoch], len(self._mask.blocks))
            counts = self._mask.counts[order]
            ends = np.add.reduceat(counts, np.arange(0, len(counts), self.blocks_per_window)).cumsum()
            if len(self._epochs) > 1:
                del self._epochs[max(self._epochs, key=lambda known: abs(known - epoch))]
            self._epochs[epoch] = _Epoch(self._mask.blocks[order], counts, np.concatenate([[0], ends]))
        return self._epochs[epoch]

    def _window(self, epoch: int, window: int) -> WindowBuffer:
        with self.clock.waiting():
            return self._windows.get(epoch * self._windows_per_epoch + window)

    def _filling(self, window: int) -> Callable[[WindowBuffer], None]:
        """The function that fills a buffer with a window, counted over all epochs."""
        epoch, index = divmod(window, self._windows_per_epoch)
        places = slice(index * self.blocks_per_window, (index + 1) * self.blocks_per_window)
        blocks, counts, _ = self._epoch(epoch)
        if self.settings.shared is not None:  # another process may fill the window; its mix is drawn only if needed
            mix: Callable[[], np.ndarray] = partial(permutation, *self._mix(window))
        else:
            mix = self._drawn(window).result
            # The next window's mix is drawn meanwhile: it is the one part of a fill that one thread does alone.
            self._mixes = {window + 1: self._drawn(window + 1)}
        return partial(self._filler.fill, blocks=blocks[places], counts=counts[places], mix=mix)

    def _drawn(self, window: int) -> "Future[np.ndarray]":
        """The mix of a window, which a thread draws."""
        return self._mixes.get(window) or self._pool.submit(permutation, *self._mix(window))

    def _mix(self, window: int) -> tuple[list[Json], int]:
        """Key and length of the permutation that mixes a window."""
        epoch, index = divmod(window, self._windows_per_epoch)
        starts = self._epoch(epoch).starts
        return [*self._key, "rows", epoch, index], int(starts[index + 1] - starts[index])


def joint_mask(sites: Sites, split: str, filters: Filters) -> RowMask:
    """The rows of a split that pass the filters at every site.

    Flags are of tokens, so they are the same at all sites. A norm limit is of one site: the mask then names the sites.
    """
    store, site = sites[0]
    mask = store.mask(site, split, filters)
    if filters.max_norm_multiple is None or len(sites) == 1:
        return mask
    for other, name in sites[1:]:
        mask &= other.mask(name, split, filters)
    mask.limited_by = tuple(sorted(name for _, name in sites))
    return mask


class JoinedBatches(AbstractContextManager["JoinedBatches"]):
    """`Batches` of several sites side by side: row n of every site's batch is of the same token.

    A pure function of the step, too. Without a norm limit, its rows are those that `Batches` of one site would serve.
    """

    def __init__(
        self, sites: Sites, settings: StreamSettings = StreamSettings(), **options: Unpack[StreamOptions]
    ) -> None:
        """Open a stream of each site; arguments and errors are those of `Batches`."""
        settings = replace(settings, **options)
        mask = joint_mask(sites, settings.split, settings.filters)
        self.streams: list[Batches] = []
        self.clock = LoaderClock(settings.threads)
        """Time spent on reading so far, by all streams together."""
        try:
            for store, site in sites:
                self.streams.append(Batches(store, site, settings, mask=mask, clock=self.clock))
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

    def __exit__(self, *exception: _Exception) -> None:
        self.close()


def joined_in_order(
    sites: Sites, split: str, filters: Filters, batch_size: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Batches of a split in plan order, each row that passes at all sites once: rows of each site, and row numbers."""
    mask = joint_mask(sites, split, filters)
    streams = [store.in_order(site, split, filters, batch_size, mask) for store, site in sites]
    for parts in zip(*streams, strict=True):
        yield [rows for rows, _ in parts], parts[0][1]
