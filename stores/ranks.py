"""Windows that several ranks read together: each decodes its share of the chunks and gets the others' from them."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from stores.errors import StoreError
from stores.loader_clock import LoaderClock
from stores.masks import RowMask
from stores.site_rows import SiteRows
from stores.windows import WindowBuffer, WindowFiller

_STATUS_BYTES = 64
_READ, _FAILED, _STOPPED = range(3)
_Chunk = tuple[np.ndarray, np.ndarray | None]


class Share(NamedTuple):
    """The place of this process among the ranks that serve the same batches."""

    rank: int
    n_ranks: int
    exchange: Callable[[np.ndarray], None]
    """Given bytes [n_ranks, n] whose row `rank` is ours, fills in the other rows with those of the others.

    All ranks call it in the same order, from a thread of its own: it needs a communicator that nothing else uses.
    """


class RankFiller(WindowFiller):
    """Fills windows with what each rank read: rank r of n the blocks r, r + n, r + 2n, ... of a window."""

    def __init__(
        self,
        values: SiteRows,
        mask: RowMask,
        pool: ThreadPoolExecutor,
        threads: int,
        clock: LoaderClock,
        share: Share,
    ) -> None:
        super().__init__(values, mask, pool, threads, clock)
        self._share = share
        n_bytes = values.rows_per_chunk * values.shape[1] * values.coded_dtype.itemsize
        self._scales_at = -(-(_STATUS_BYTES + n_bytes) // 64) * 64
        room = self._scales_at + (4 * values.rows_per_chunk if values.has_scales else 0)
        self._parts = np.zeros((share.n_ranks, -(-room // 64) * 64), np.uint8)

    def fill(self, buffer: WindowBuffer, blocks: np.ndarray, counts: np.ndarray, mix: Callable[[], np.ndarray]) -> None:
        """See `WindowFiller.fill`. Raises: StoreError on every rank if a chunk of any is damaged."""
        with self._clock.filling(self._put_bytes(counts)):
            self._fill(buffer, blocks, counts, mix)

    def _fill(
        self, buffer: WindowBuffer, blocks: np.ndarray, counts: np.ndarray, mix: Callable[[], np.ndarray]
    ) -> None:
        rank, n_ranks, exchange = self._share
        ends = np.cumsum(counts).tolist()
        places = list(map(slice, [0, *ends], ends))
        mine = deque(blocks[rank::n_ranks].tolist())
        reads: deque[Future[_Chunk]] = deque()
        targets: np.ndarray | None = None
        for first in range(0, len(blocks), n_ranks):
            while mine and len(reads) < self._threads:
                reads.append(self._pool.submit(self._read, mine.popleft()))
            error = self._send(reads.popleft() if reads else None)
            exchange(self._parts)
            self._agree(error)
            targets = mix() if targets is None else targets
            for part, block in enumerate(blocks[first : first + n_ranks].tolist()):
                self._put(buffer, targets[places[first + part]], block, *self._received(part, block))

    def _read(self, block: int) -> _Chunk:
        began = time.perf_counter()
        chunk = self._values.coded(block)
        self._clock.decoded(time.perf_counter() - began)
        return chunk

    def _send(self, read: "Future[_Chunk] | None") -> StoreError | None:
        """Put a chunk and how we are into our part of what is exchanged. Returns: what went wrong."""
        ours = self._parts[self._share.rank]
        try:
            if self._stopped:
                raise CancelledError
            if read is not None:
                rows, scales = read.result()
                data = rows.reshape(-1).view(np.uint8)
                ours[_STATUS_BYTES : _STATUS_BYTES + len(data)] = data
                if scales is not None:
                    ours[self._scales_at : self._scales_at + scales.nbytes] = scales.view(np.uint8)
        except CancelledError:
            ours[0] = _STOPPED
        except StoreError as error:
            ours[0] = _FAILED
            return error
        else:
            ours[0] = _READ
        return None

    def _agree(self, error: StoreError | None) -> None:
        """All ranks give up in the same round, or none does."""
        if error is not None:
            raise error
        for rank, status in enumerate(self._parts[:, 0].tolist()):
            if status == _FAILED:
                raise StoreError(f"rank {rank} could not read its share of a window; its own message says why")
            if status == _STOPPED:
                raise CancelledError

    def _received(self, part: int, block: int) -> _Chunk:
        values, data = self._values, self._parts[part]
        n_rows = min(values.rows_per_chunk, values.shape[0] - block * values.rows_per_chunk)
        n_bytes = n_rows * values.shape[1] * values.coded_dtype.itemsize
        rows = data[_STATUS_BYTES : _STATUS_BYTES + n_bytes].view(values.coded_dtype).reshape(n_rows, -1)
        scales = data[self._scales_at : self._scales_at + 4 * n_rows].view(np.float32) if values.has_scales else None
        return rows, scales
