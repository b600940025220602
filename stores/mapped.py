"""One zarr array of a store, read by mapping its shard files into memory."""

import mmap
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stores.encodings import crc_matches, decode_chunk
from stores.errors import StoreError
from stores.format import ArraySpec
from stores.shards import read_index

_MAPS_KEPT = 256


class _Shard(NamedTuple):
    memory: mmap.mmap
    data: np.ndarray
    places: np.ndarray


class MappedArray:
    """Rows of one array. Uncompressed chunks are views of the mapped file: nothing is copied until it is used."""

    def __init__(self, store: Path, spec: ArraySpec) -> None:
        self.spec = spec
        self._store = store
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._held: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()
        self._checked = np.zeros(-(-spec.shape[0] // spec.rows_per_chunk), bool)

    @property
    def n_chunks(self) -> int:
        """Chunks that hold rows."""
        return len(self._checked)

    def chunk_rows(self, chunk: int) -> tuple[int, int]:
        """Rows [start, stop) of a chunk."""
        start = chunk * self.spec.rows_per_chunk
        return start, min(start + self.spec.rows_per_chunk, self.spec.shape[0])

    def chunk(self, chunk: int) -> np.ndarray:
        """Rows of one chunk, [R or fewer, ...], read-only. Its checksum is verified the first time it is read.

        Raises: StoreError naming the file and the rows if the checksum differs.
        """
        shard, place = divmod(chunk, self.spec.chunks_per_shard)
        _, data, index = self._shard(shard)
        offset, n_bytes = index[place].tolist()
        encoded = data[offset : offset + n_bytes]
        start, stop = self.chunk_rows(chunk)
        if not self._checked[chunk]:
            if not crc_matches(encoded):
                raise StoreError(
                    f"{self._where(shard)}: checksum differs in the chunk of rows {start}..{stop - 1} (byte {offset}); "
                    f"the file is damaged, fetch it again"
                )
            self._checked[chunk] = True
        shape = (self.spec.rows_per_chunk, *self.spec.shape[1:])
        try:
            rows = decode_chunk(encoded, self.spec.compressor, self.spec.dtype, shape)
        except StoreError as error:
            raise StoreError(f"{self._where(shard)}: rows {start}..{stop - 1}: {error}") from None
        return rows[: stop - start]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop); a view where they lie in one uncompressed chunk.

        Raises: StoreError if the range leaves the array.
        """
        if not 0 <= start <= stop <= self.spec.shape[0]:
            raise StoreError(f"{self.spec.path}: rows {start}..{stop} leave 0..{self.spec.shape[0]}")
        size = self.spec.rows_per_chunk
        chunks = range(start // size, -(-stop // size) if stop > start else start // size)
        pieces = [self.chunk(chunk)[max(start - chunk * size, 0) : stop - chunk * size] for chunk in chunks]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, *self.spec.shape[1:]), self.spec.dtype)

    def will_need(self, chunk: int) -> None:
        """Ask the kernel to read a chunk ahead."""
        if chunk not in self._held:
            self._advise(chunk, mmap.MADV_WILLNEED)

    def hold(self, chunk: int, at_most: int) -> None:
        """Note that a chunk was read, and let go of the pages of the longest unread beyond `at_most` chunks.

        Memory then does not grow with the file; what is let go stays in the page cache.
        """
        with self._lock:
            self._held[chunk] = None
            self._held.move_to_end(chunk)
            gone = self._held.popitem(last=False)[0] if len(self._held) > at_most else None
        if gone is not None:
            self._advise(gone, mmap.MADV_DONTNEED)

    def _advise(self, chunk: int, advice: int) -> None:
        shard, place = divmod(chunk, self.spec.chunks_per_shard)
        memory, _, index = self._shard(shard)
        offset, n_bytes = index[place].tolist()
        first = offset - offset % mmap.PAGESIZE
        memory.madvise(advice, first, offset + n_bytes - first)

    def _where(self, shard: int) -> Path:
        return self._store / self.spec.shard_path(shard)

    def _shard(self, shard: int) -> _Shard:
        with self._lock:
            if shard in self._shards:
                self._shards.move_to_end(shard)
                return self._shards[shard]
            path = self._where(shard)
            memory = _map(path)
            data = np.frombuffer(memory, np.uint8)
            self._shards[shard] = _Shard(memory, data, read_index(data, self.spec, shard, path))
            if len(self._shards) > _MAPS_KEPT:
                self._shards.popitem(last=False)
            return self._shards[shard]


def _map(path: Path) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except (ValueError, OSError) as error:
        raise StoreError(f"{path}: cannot be mapped ({error}); fetch the file again") from None
    finally:
        os.close(descriptor)
