"""Shard files: chunks one after another, then an index of their places, as zarr's `sharding_indexed` codec does."""

import hashlib
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.arrays import ArraySpec
from strata_sae.stores.format.encodings import CRC_BYTES, encode_chunk
from strata_sae.stores.format.shard_index import MISSING


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
        missing = [(MISSING, MISSING)] * (self._spec.chunks_per_shard - len(self._index))
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
