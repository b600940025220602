"""Mixed batches of rows: `batch(step)` is a pure function, so a resumed or added trainer sees the very same rows."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from stores.errors import StoreError
from stores.filters import Filters
from stores.reader import ActivationStore
from stores.shuffling import permutation
from stores.windows import WindowBuffer, WindowFiller


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
    ) -> None:
        filters = filters or Filters()
        self._mask = store.mask(site, split, filters)
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
        self._key = [store.plan.id, split, filters.key(), seed, self.blocks_per_window]
        self._pool = ThreadPoolExecutor(threads + 1, thread_name_prefix="strata-window")
        self._filler = WindowFiller(store.values(site), self._mask, self._pool, threads)
        self._buffers = [self._filler.new_buffer(self.blocks_per_window) for _ in range(2)]
        self._slots: list[tuple[int, int] | None] = [None, None]
        self._pending: list[Future[None] | None] = [None, None]
        self._mixes: dict[tuple[int, int], Future[np.ndarray]] = {}
        self._epochs: dict[int, _Epoch] = {}

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [B, M] as stored and their row numbers [B] (int64), read-only and valid until the next call.

        Raises: StoreError if a chunk is damaged.
        """
        epoch, offset = divmod(step * self.batch_size, self.n_rows)
        rows, numbers = self._piece(epoch, offset, self.batch_size)
        if len(rows) == self.batch_size:
            rows.flags.writeable = numbers.flags.writeable = False
            return rows, numbers
        joined = np.empty((self.batch_size, *rows.shape[1:]), rows.dtype), np.empty(self.batch_size, np.int64)
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
        """Stop the threads; what was served stays valid."""
        self._filler.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _piece(self, epoch: int, offset: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of up to `wanted` rows from `offset` of an epoch, all of one window, and their numbers."""
        starts = self._epoch(epoch).starts
        window = int(np.searchsorted(starts, offset, side="right")) - 1
        buffer = self._window(epoch, window)
        start = int(starts[window])
        some = slice(offset - start, min(offset + wanted, int(starts[window + 1])) - start)
        return buffer.rows[some], buffer.numbers[some]

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
        """The filled buffer of a window; begins to fill the next one behind it."""
        slot = self._slots.index((epoch, window)) if (epoch, window) in self._slots else self._start(epoch, window, 0)
        pending = self._pending[slot]
        if pending is not None:
            pending.result()
            self._pending[slot] = None
        following = self._following(epoch, window)
        if following not in self._slots:
            self._start(*following, slot=1 - slot)
        return self._buffers[slot]

    def _following(self, epoch: int, window: int) -> tuple[int, int]:
        last = window + 2 == len(self._epoch(epoch).starts)
        return (epoch + 1, 0) if last else (epoch, window + 1)

    def _start(self, epoch: int, window: int, slot: int) -> int:
        pending = self._pending[slot]
        if pending is not None:
            pending.result()
        mix = self._mix(epoch, window)
        some = slice(window * self.blocks_per_window, (window + 1) * self.blocks_per_window)
        blocks, counts, _ = self._epoch(epoch)
        self._slots[slot] = (epoch, window)
        self._pending[slot] = self._pool.submit(self._filler.fill, self._buffers[slot], blocks[some], counts[some], mix)
        # The mix of the window after that is drawn meanwhile: it is the one part of a fill that is not shared out.
        following = self._following(epoch, window)
        self._mixes = {following: self._mix(*following)}
        return slot

    def _mix(self, epoch: int, window: int) -> "Future[np.ndarray]":
        """Where in its window each row goes, being drawn by a thread."""
        if (epoch, window) in self._mixes:
            return self._mixes[epoch, window]
        starts = self._epoch(epoch).starts
        n_rows = int(starts[window + 1] - starts[window])
        return self._pool.submit(permutation, [*self._key, "rows", epoch, window], n_rows)
