"""What the plan and the commit records say of an array's shards, and whether what is read is that."""

import hashlib
import re
from typing import Any, Protocol

import google_crc32c
import numpy as np

from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.places import FileBytes
from strata_sae.stores.format.arrays import ArraySpec
from strata_sae.stores.format.encodings import CRC_BYTES
from strata_sae.stores.format.statistics import norm_bins

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CRCS = re.compile(r"([0-9a-f]{8})*")
_HASHED_BYTES = 4 * 2**20


def is_file_record(record: Any, n_chunks: int | None = None) -> bool:
    """Whether plain data is {bytes, sha256}, and of a shard of version 2 also {index_crc32c, chunk_crc32c}.

    Args:
        n_chunks: chunks of the shard that hold rows; null: the record has no checksums of chunks.

    """
    keys = {"bytes", "sha256"} | ({"index_crc32c", "chunk_crc32c"} if n_chunks is not None else set())
    if not isinstance(record, dict) or set(record) != keys:
        return False
    if type(record["bytes"]) is not int or record["bytes"] < 0 or not _matches(_SHA256, record["sha256"]):
        return False
    if n_chunks is None:
        return True
    index, chunks = record["index_crc32c"], record["chunk_crc32c"]
    return _matches(_CRCS, index) and len(index) == 8 and _matches(_CRCS, chunks) and len(chunks) == 8 * n_chunks


def _matches(pattern: re.Pattern[str], text: Any) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


class ShardRecords(Protocol):
    """What is known of the shards of one array before they are read."""

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """Whether a shard's file, whose index has this crc32c, can be the one that was written in this place."""

    def chunk_matches(self, chunk: int, crc: int) -> bool:
        """Whether a chunk of this crc32c is the one that was written in this place."""


class ChunkRecords:
    """Version 2: the crc32c of every index and of every chunk. In memory 4 bytes each."""

    def __init__(self) -> None:
        self._indices, self._chunks = bytearray(), bytearray()

    def add(self, record: dict[str, Any]) -> None:
        """Take the record of the next shard."""
        self._indices += bytes.fromhex(record["index_crc32c"])
        self._chunks += bytes.fromhex(record["chunk_crc32c"])

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """See `ShardRecords.shard_matches`."""
        return self._indices[4 * shard : 4 * shard + 4] == index_crc.to_bytes(4, "big")

    def chunk_matches(self, chunk: int, crc: int) -> bool:
        """See `ShardRecords.chunk_matches`."""
        return self._chunks[4 * chunk : 4 * chunk + 4] == crc.to_bytes(4, "big")


class FileRecords:
    """Version 1, arrays that are read whole: the file's sha256."""

    def __init__(self) -> None:
        self._sha256: list[str] = []

    def add(self, record: dict[str, Any]) -> None:
        """Take the record of the next shard."""
        self._sha256.append(record["sha256"])

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """See `ShardRecords.shard_matches`."""
        digest = hashlib.sha256()
        for first in range(0, file.n_bytes, _HASHED_BYTES):
            digest.update(file.read(first, min(_HASHED_BYTES, file.n_bytes - first)).data)
        return digest.hexdigest() == self._sha256[shard]

    def chunk_matches(self, chunk: int, crc: int) -> bool:
        """See `ShardRecords.chunk_matches`."""
        return True


class NormRecords:
    """Version 1, norms: the histogram of a unit's norms, which its statistics hold (`Moments`), by its crc32c."""

    def __init__(self, spec: ArraySpec) -> None:
        self._spec = spec
        self._histograms: list[int] = []

    def add(self, statistics: dict[str, Any]) -> None:
        """Take what the next unit's commit record says of the site.

        Raises: KeyError, TypeError, ValueError if it is not what a commit record holds.
        """
        self._histograms.append(_crc_of(dict(statistics["all"]["norm_bins"])))

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """See `ShardRecords.shard_matches`."""
        spec = self._spec
        chunk_bytes = spec.rows_per_chunk * 4 + CRC_BYTES
        data = file.read(0, spec.shard_chunks(shard) * chunk_bytes).reshape(-1, chunk_bytes)
        n_rows = min(spec.rows_per_shard, spec.shape[0] - shard * spec.rows_per_shard)
        norms_N = np.ascontiguousarray(data[:, :-CRC_BYTES]).view("<f4").reshape(-1)[:n_rows]
        return _crc_of(norm_bins(norms_N)) == self._histograms[shard]

    def chunk_matches(self, chunk: int, crc: int) -> bool:
        """See `ShardRecords.chunk_matches`."""
        return True


class NoRecords:
    """Version 1, rows: nothing but the file's hash, for which all of it would have to be read (see `norm_check`)."""

    def shard_matches(self, shard: int, file: FileBytes, index_crc: int) -> bool:
        """See `ShardRecords.shard_matches`."""
        return True

    def chunk_matches(self, chunk: int, crc: int) -> bool:
        """See `ShardRecords.chunk_matches`."""
        return True


def shard_records(version: int, spec: ArraySpec, files: dict[str, dict[str, Any]]) -> ShardRecords:
    """What `files` (path -> record) say of an array that is read whole, in a store of any version."""
    found = FileRecords() if version == 1 else ChunkRecords()
    for path in spec.shard_paths():
        found.add(files[path])
    return found


def _crc_of(norm_bins: dict[str, int]) -> int:
    return int(google_crc32c.value(canonical_json(norm_bins)))
