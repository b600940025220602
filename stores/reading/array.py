"""One zarr array of a store, read chunk by chunk from wherever its shard files lie, and held against its records."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping

import google_crc32c
import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_object, canonical_json
from strata_sae.stores.files.places import FileBytes, OpenFiles, Place
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.format.shards import (
    CRC_BYTES,
    ArraySpec,
    crc_matches,
    decode_chunk,
    index_bytes,
    read_index,
    stored_crc,
)
from strata_sae.stores.format.statistics import norm_bins

_INDICES_KEPT = 4096
_READS = 3
_HASHED_BYTES = 4 * 2**20


class ShardRecords:
    """What is recorded of the shards of one array before they are read; here nothing.

    So it is for rows of version 1, of which only the file's hash is recorded, which takes all of its bytes; their norms
    are compared instead (`NormCheckedRows`).
    """

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """Whether a shard's file, whose index has this crc32c, can be the one that was written in this place."""
        return True

    def chunk_matches(self, chunk: int, crc: int) -> bool:
        """Whether a chunk of this crc32c is the one that was written in this place."""
        return True


class StoredArray:
    """Rows of one array. Uncompressed chunks of a mapped file are views of it: nothing is copied until it is used.

    What is read for the first time must be intact and what was written in this place: a shard's index and a chunk that
    the records do not have there are refused.
    """

    def __init__(self, place: Place, spec: ArraySpec, records: ShardRecords) -> None:
        self.spec = spec
        self._place, self._records = place, records
        self._files = OpenFiles(place)
        self._indices: OrderedDict[int, np.ndarray] = OrderedDict()
        self._touched: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()
        self._checked = np.zeros(spec.n_chunks, bool)

    def chunk_rows(self, chunk: int) -> tuple[int, int]:
        """Rows [start, stop) of a chunk."""
        start = chunk * self.spec.rows_per_chunk
        return start, min(start + self.spec.rows_per_chunk, self.spec.shape[0])

    def chunk(self, chunk: int) -> np.ndarray:
        """Rows of one chunk, [R or fewer, ...], read-only. Its checksum is verified the first time it is read.

        Raises: StoreError naming the file and the rows if the checksum differs, or is that of another place.
        """
        file, offset, n_bytes = self._find(chunk)
        encoded = file.read(offset, n_bytes)
        start, stop = self.chunk_rows(chunk)
        if not self._checked[chunk]:
            for _ in range(_READS - 1):  # what a network garbled comes whole the next time
                if crc_matches(encoded):
                    break
                encoded = file.read(offset, n_bytes)
            if not crc_matches(encoded):
                raise StoreError(
                    f"{self._where(chunk)}: checksum differs in the chunk of rows {start}..{stop - 1} (byte {offset}); "
                    f"the file is damaged, fetch it again"
                )
            self._check_place(chunk, stored_crc(encoded))
            self._checked[chunk] = True
        shape = (self.spec.rows_per_chunk, *self.spec.shape[1:])
        try:
            rows = decode_chunk(encoded, self.spec.compressor, self.spec.dtype, shape)
        except StoreError as error:
            raise StoreError(f"{self._where(chunk)}: rows {start}..{stop - 1}: {error}") from None
        return rows[: stop - start]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop); a view where they lie in one uncompressed chunk.

        Raises: StoreError if the range leaves the array.
        """
        pieces = [self.chunk(chunk)[some] for chunk, some in self.pieces(start, stop)]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, *self.spec.shape[1:]), self.spec.dtype)

    def pieces(self, start: int, stop: int) -> list[tuple[int, slice]]:
        """The chunks that hold rows [start, stop), and which rows of each. Raises: StoreError beyond the array."""
        if not 0 <= start <= stop <= self.spec.shape[0]:
            raise StoreError(f"{self.spec.path}: rows {start}..{stop} leave 0..{self.spec.shape[0]}")
        size = self.spec.rows_per_chunk
        chunks = range(start // size, -(-stop // size) if stop > start else start // size)
        return [(chunk, slice(max(start - chunk * size, 0), stop - chunk * size)) for chunk in chunks]

    def will_need(self, chunk: int) -> None:
        """Ask for a chunk to be read ahead."""
        if chunk not in self._touched:
            file, offset, n_bytes = self._find(chunk)
            file.will_need(offset, n_bytes)

    def touch(self, chunk: int, keep: int) -> None:
        """Note that a chunk was read, and release the pages of the longest unread chunks but `keep`.

        Memory then does not grow with the file; what is released stays in the page cache.
        """
        with self._lock:
            self._touched[chunk] = None
            self._touched.move_to_end(chunk)
            gone = self._touched.popitem(last=False)[0] if len(self._touched) > keep else None
        if gone is not None:
            file, offset, n_bytes = self._find(gone)
            file.let_go(offset, n_bytes)

    def check_shard(self, shard: int) -> None:
        """Hold a shard's index, and the checksum that each of its chunks ends with, against the records.

        Reads no row: bytes that changed where they lie are not found, files and chunks in the wrong place are.

        Raises: StoreError.
        """
        first = shard * self.spec.chunks_per_shard
        for chunk in range(first, first + self.spec.shard_chunks(shard)):
            file, offset, n_bytes = self._find(chunk)
            self._check_place(chunk, stored_crc(file.read(offset + n_bytes - CRC_BYTES, CRC_BYTES)))

    def _check_place(self, chunk: int, crc: int) -> None:
        if not self._records.chunk_matches(chunk, crc):
            start, stop = self.chunk_rows(chunk)
            raise StoreError(
                f"{self._where(chunk)}: the chunk of rows {start}..{stop - 1} is not the one that was written there "
                f"(its checksum is {crc:08x}); the file was exchanged with another, fetch it again"
            )

    def _where(self, chunk: int) -> str:
        return f"{self._place.name}/{self.spec.shard_path(chunk // self.spec.chunks_per_shard)}"

    def _find(self, chunk: int) -> tuple[FileBytes, int, int]:
        """The file of a chunk, and its offset and size there."""
        shard, place = divmod(chunk, self.spec.chunks_per_shard)
        file = self._files.get(self.spec.shard_path(shard))
        index = self._indices.get(shard)
        if index is None:
            size = min(index_bytes(self.spec), file.n_bytes)
            tail = file.read(file.n_bytes - size, size)
            index = read_index(tail, file.n_bytes, self.spec, shard, self._where(chunk))
            if not self._records.shard_matches(shard, file, stored_crc(tail)):
                raise StoreError(
                    f"{self._where(chunk)}: is not the file that the store's records have in this place; "
                    f"it was exchanged with another, fetch it again"
                )
            with self._lock:
                self._indices[shard] = index
                if len(self._indices) > _INDICES_KEPT:
                    self._indices.popitem(last=False)
        offset, n_bytes = index[place].tolist()
        return file, offset, n_bytes


class ChunkRecords(ShardRecords):
    """Version 2: the crc32c of every index and of every chunk. In memory 4 bytes each."""

    def __init__(self) -> None:
        self._indices, self._chunks = bytearray(), bytearray()

    def add(self, file: FileRecord) -> None:
        """Take the record of the next shard."""
        self._indices += bytes.fromhex(file.index_crc32c)
        self._chunks += bytes.fromhex(file.chunk_crc32c)

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """See `ShardRecords.shard_matches`."""
        return self._indices[4 * shard : 4 * shard + 4] == index_crc.to_bytes(4, "big")

    def chunk_matches(self, chunk: int, crc: int) -> bool:
        """See `ShardRecords.chunk_matches`."""
        return self._chunks[4 * chunk : 4 * chunk + 4] == crc.to_bytes(4, "big")


class FileHashes(ShardRecords):
    """Version 1, arrays that are read whole: the file's sha256."""

    def __init__(self) -> None:
        self._sha256: list[str] = []

    def add(self, file: FileRecord) -> None:
        """Take the record of the next shard."""
        self._sha256.append(file.sha256)

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """See `ShardRecords.shard_matches`."""
        digest = hashlib.sha256()
        for first in range(0, file.n_bytes, _HASHED_BYTES):
            digest.update(file.read(first, min(_HASHED_BYTES, file.n_bytes - first)).data)
        return digest.hexdigest() == self._sha256[shard]


class NormRecords(ShardRecords):
    """Version 1, norms: the histogram of a unit's norms, which its statistics hold (`Moments`), by its crc32c."""

    def __init__(self, spec: ArraySpec) -> None:
        self._spec = spec
        self._histograms: list[int] = []

    def add(self, statistics: Json) -> None:
        """Take what the next unit's commit record says of the site.

        Raises: KeyError, ValueError if it is not what a commit record holds.
        """
        self._histograms.append(_crc_of(as_object(as_object(as_object(statistics)["all"])["norm_bins"])))

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """See `ShardRecords.shard_matches`."""
        spec = self._spec
        chunk_bytes = spec.rows_per_chunk * 4 + CRC_BYTES
        data = file.read(0, spec.shard_chunks(shard) * chunk_bytes).reshape(-1, chunk_bytes)
        n_rows = min(spec.rows_per_shard, spec.shape[0] - shard * spec.rows_per_shard)
        norms_N = np.ascontiguousarray(data[:, :-CRC_BYTES]).view("<f4").reshape(-1)[:n_rows]
        return _crc_of(norm_bins(norms_N)) == self._histograms[shard]


def shard_records(version: int, spec: ArraySpec, files: dict[str, FileRecord]) -> ShardRecords:
    """What `files` (by path) say of an array that is read whole, in a store of any version."""
    found = FileHashes() if version == 1 else ChunkRecords()
    for path in spec.shard_paths():
        found.add(files[path])
    return found


def _crc_of(norm_bins: Mapping[str, Json]) -> int:
    return int(google_crc32c.value(canonical_json(norm_bins)))
