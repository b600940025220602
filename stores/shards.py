"""Shard files: chunks one after another, then an index of their places, as zarr's `sharding_indexed` codec does."""

import hashlib
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from strata_sae.stores.encodings import CRC_BYTES, crc_matches, encode_chunk
from strata_sae.stores.errors import StoreError
from strata_sae.stores.filesystem import FileSystem
from strata_sae.stores.format import ArraySpec

_MISSING = 2**64 - 1
_ENTRY_BYTES = 16


class ShardWriter:
    """Writes one shard file row by row, holding one chunk in memory; the file is durable when `finish` returns."""

    def __init__(self, files: FileSystem, path: Path, spec: ArraySpec) -> None:
        self._files, self._spec = files, spec
        self._descriptor = files.create(path)
        self._chunk = np.empty((spec.rows_per_chunk, *spec.shape[1:]), spec.dtype)
        self._filled = 0
        self._index: list[tuple[int, int]] = []
        self._chunk_crcs: list[str] = []
        self._n_bytes = 0
        self._digest = hashlib.sha256()

    def append(self, rows: np.ndarray) -> None:
        """Add rows [n, ...] of the stored type."""
        done = 0
        while done < len(rows):
            take = min(len(rows) - done, len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + take] = rows[done : done + take]
            self._filled += take
            done += take
            if self._filled == len(self._chunk):
                self._write_chunk()

    def finish(self) -> dict[str, Any]:
        """Write the last chunk and the index, and sync.

        Returns: {bytes, sha256, index_crc32c, chunk_crc32c} of the file; 8 hex digits for each crc32c.
        """
        if self._filled:
            # zarr's chunks are always whole: what lies past the array's end is fill value.
            self._chunk[self._filled :] = _fill(self._spec)
            self._write_chunk()
        missing = [(_MISSING, _MISSING)] * (self._spec.chunks_per_shard - len(self._index))
        index = np.array(self._index + missing, "<u8").tobytes()
        index_crc = google_crc32c.value(index)
        self._write(index + index_crc.to_bytes(CRC_BYTES, "little"))
        self._files.sync(self._descriptor)
        self._files.close(self._descriptor)
        self._descriptor = -1
        return {
            "bytes": self._n_bytes,
            "sha256": self._digest.hexdigest(),
            "index_crc32c": f"{index_crc:08x}",
            "chunk_crc32c": "".join(self._chunk_crcs),
        }

    def close(self) -> None:
        """Let go of the file, finished or not."""
        if self._descriptor >= 0:
            self._files.close(self._descriptor)
            self._descriptor = -1

    def _write_chunk(self) -> None:
        encoded = encode_chunk(self._chunk, self._spec.compressor)
        self._index.append((self._n_bytes, len(encoded)))
        self._chunk_crcs.append(encoded[: -CRC_BYTES - 1 : -1].hex())  # stored little-endian, written as a number
        self._write(encoded)
        self._filled = 0

    def _write(self, data: bytes) -> None:
        self._files.write(self._descriptor, data)
        self._digest.update(data)
        self._n_bytes += len(data)


def _fill(spec: ArraySpec) -> float | int:
    return float("nan") if spec.fill_value == "NaN" else int(spec.fill_value)


def index_bytes(spec: ArraySpec) -> int:
    """Size of the index at the end of a shard file."""
    return spec.chunks_per_shard * _ENTRY_BYTES + CRC_BYTES


def read_index(tail: np.ndarray, file_bytes: int, spec: ArraySpec, shard: int, where: str) -> np.ndarray:
    """Places of a shard's chunks from the end of its file (uint8), checked: int64 [chunks, 2] of offset and size.

    Raises: StoreError if the index is damaged, leaves the file, or lacks a chunk that holds rows.
    """
    if len(tail) < index_bytes(spec):
        raise StoreError(f"{where}: {file_bytes} bytes, too short for its index; fetch the file again")
    if not crc_matches(tail):
        raise StoreError(f"{where}: the checksum of its index differs; the file is damaged, fetch it again")
    index = tail[:-CRC_BYTES].view("<u8").reshape(-1, 2)[: spec.shard_chunks(shard)]
    limit = file_bytes - len(tail)
    if (index > limit).any() or (index.sum(axis=1) > limit).any() or (index[:, 1] < CRC_BYTES).any():
        raise StoreError(f"{where}: its index points outside the file or to a missing chunk; fetch the file again")
    ends = index[:, 1].cumsum()
    if (index[:, 0] != ends - index[:, 1]).any() or ends[-1] != limit:
        raise StoreError(f"{where}: its chunks overlap, or leave gaps; fetch the file again")
    return index.astype(np.int64)
