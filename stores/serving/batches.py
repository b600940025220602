"""Mixed batches of rows: `batch(step)` is a pure function, so a resumed or added trainer sees the very same rows."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, canonical_json
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import Filters, RowMask, permutation
from strata_sae.stores.serving.clock import LoaderClock
from strata_sae.stores.serving.shared_windows import SharedWindows
from strata_sae.stores.serving.windows import PrivateWindows, WindowBuffer, WindowFiller, Windows


class _Epoch(NamedTuple):
    blocks: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    """Rows served before each window of the epoch, and after the last."""


class Batches:
    """An endless stream of batches from one site and split.

    Blocks of rows are permuted over an epoch, `window_rows` of them are copied into memory and mixed there, and
    batches are cut from the stream of mixed rows. Every row is served once an epoch; a batch may span two epochs.
    The order depends on the plan, split, filters, seed and window alone: not on the site, threads or resume points.
    """

    def __init__(
        self,
        store: ActivationStore,
        site: str,
        *,
        split: str = "train",
        filters: Filters | None = None,
        seed: int = 0,
        batch_size: int = 2048,
        window_rows: int = 2**20,
        threads: int = 2,
        shared: Path | None = None,
        mask: RowMask | None = None,
        clock: LoaderClock | None = None,
    ) -> None:
        """Open a stream.

        Args:
            shared: a folder in memory (/dev/shm), or on a disk, where all who read the same stream share windows.
            mask: a narrower one than the site's own (see `stores.joined`).
            clock: one that several streams share; null: a clock of its own.
        Raises: StoreError if the split has fewer rows than a batch, or if there is no room for shared windows.

        """
        filters = filters or Filters()
        self._mask = mask or store.mask(site, split, filters)
        self.n_rows = self._mask.n_rows
        """Rows of an epoch."""
        if batch_size > self.n_rows:
            raise StoreError(
                f"{store.path}: a batch of {batch_size} rows is larger than split {split!r}, which has {self.n_rows} "
                f"rows after the filters; lower training.batch_size"
            )
        self.batch_size = batch_size
        size = store.plan.rows_per_chunk
        self.blocks_per_window = max(1, min(window_rows // size, len(self._mask.blocks)))
        limits: dict[str, Json] = {"limited_by": [*self._mask.limited_by]} if self._mask.limited_by else {}
        self._key: list[Json] = [store.plan.order_id, split, {**filters.key(), **limits}, seed, self.blocks_per_window]
        self.clock = clock or LoaderClock(threads)
        """How long reading took so far."""
        self._pool = ThreadPoolExecutor(threads + 1, thread_name_prefix="strata-window")
        self._values = store.values(site)
        self._filler = WindowFiller(self._values, self._mask, self._pool, threads, self.clock)
        self._windows_per_epoch = -(-len(self._mask.blocks) // self.blocks_per_window)
        self._mixes: dict[int, Future[np.ndarray]] = {}
        self._epochs: dict[int, _Epoch] = {}
        self._is_shared = shared is not None
        self._windows = self._private_windows() if shared is None else self._shared_windows(shared, [store.id, site])

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [B, M] as stored and their row numbers [B] (int64), read-only and valid until the next call.

        Raises: StoreError if a chunk is damaged.
        """
        epoch, offset = divmod(step * self.batch_size, self.n_rows)
        rows, numbers = self._piece(epoch, offset, self.batch_size)
        if len(rows) == self.batch_size:
            rows.flags.writeable = numbers.flags.writeable = False
            return rows, numbers
        joined = np.empty((self.batch_size, rows.shape[1]), rows.dtype), np.empty(self.batch_size, np.int64)
        done = 0
        while True:
            # A piece is copied before the next one may take its place in memory.
            joined[0][done : done + len(rows)], joined[1][done : done + len(rows)] = rows, numbers
            done += len(rows)
            if done == self.batch_size:
                return joined
            next_epoch, offset = divmod(offset + len(rows), self.n_rows)
            epoch += next_epoch
            rows, numbers = self._piece(epoch, offset, self.batch_size - done)

    def close(self) -> None:
        """Stop the threads; what was served from shared windows is no longer valid."""
        self._filler.stop()
        self._windows.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _private_windows(self) -> Windows:
        buffers = [self._filler.new_buffer(self.blocks_per_window) for _ in range(2)]
        return PrivateWindows(buffers, self._filling, self._pool)

    def _shared_windows(self, folder: Path, rows: list[str]) -> Windows:
        """`rows`: what names the rows, beside the order."""
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
        some = slice(offset - start, min(offset + wanted, int(starts[window + 1])) - start)
        scales = None if buffer.scales is None else buffer.scales[some]
        return self._values.decoded(buffer.rows[some], scales), buffer.numbers[some]

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
        """What fills a buffer with a window, counted over all epochs."""
        epoch, index = divmod(window, self._windows_per_epoch)
        some = slice(index * self.blocks_per_window, (index + 1) * self.blocks_per_window)
        blocks, counts, _ = self._epoch(epoch)
        if self._is_shared:  # then nobody draws the mix of a window that another one fills
            mix: Callable[[], np.ndarray] = partial(permutation, *self._mix(window))
        else:
            mix = self._drawn(window).result
            # The next mix is drawn meanwhile: it is the one part of a fill that is not shared out between threads.
            self._mixes = {window + 1: self._drawn(window + 1)}
        return partial(self._filler.fill, blocks=blocks[some], counts=counts[some], mix=mix)

    def _drawn(self, window: int) -> "Future[np.ndarray]":
        """The mix of a window, being drawn by a thread."""
        return self._mixes.get(window) or self._pool.submit(permutation, *self._mix(window))

    def _mix(self, window: int) -> tuple[list[Json], int]:
        """Key and length of the order that a window's rows are put in."""
        epoch, index = divmod(window, self._windows_per_epoch)
        starts = self._epoch(epoch).starts
        return [*self._key, "rows", epoch, index], int(starts[index + 1] - starts[index])
