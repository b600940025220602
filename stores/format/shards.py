"""Shard files: rows cut into chunks, the bytes of a chunk, the index at the end, and how large all of it becomes."""

import math
from functools import cache
from typing import NamedTuple

import google_crc32c
import numpy as np
import zstandard
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json

CRC_BYTES = 4
MISSING = 2**64 - 1
"""Offset and size of a chunk that is not there, in the index."""
_INDEX_ENTRY_BYTES = 16
_FRAME_BYTES = 2**16
_HEADER_BYTES = 18  # of a zstd frame, at most (RFC 8878, 3.1.1.1)
# Not of the package zstandard, whose version of the library writes other bytes (docs/decisions/0025).
_ZSTD = Zstd(level=1, checksum=True)
_BLOSC_LEVEL = (
    3  # on codes of SAEs 1 is 2 % larger, 5 is 1 % smaller and takes twice as long (benchmarks/codes_scale.py)
)
_BLOSC_HEADER_BYTES = 16


class ArraySpec(NamedTuple):
    """One zarr array of a store: `shape[0]` rows cut into shards, each cut into chunks."""

    path: str
    """Folder of the array, relative to the store."""
    shape: tuple[int, ...]
    """[N] or [N, M]."""
    dtype: str
    """numpy's name of the stored type."""
    zarr_type: str
    """zarr's name of it."""
    fill_value: float | int | str
    """zarr's fill value."""
    rows_per_chunk: int
    rows_per_shard: int
    compressor: str
    attributes: dict[str, str]

    @property
    def chunks_per_shard(self) -> int:
        """Entries of a shard's index."""
        return self.rows_per_shard // self.rows_per_chunk

    @property
    def n_chunks(self) -> int:
        """Chunks that hold rows."""
        return -(-self.shape[0] // self.rows_per_chunk)

    @property
    def n_shards(self) -> int:
        """Files of the array."""
        return -(-self.shape[0] // self.rows_per_shard)

    def shard_path(self, shard: int) -> str:
        """File of a shard, relative to the store."""
        return f"{self.path}/c/{shard}" + "/0" * (len(self.shape) - 1)

    def shard_paths(self) -> list[str]:
        """Files of all shards, relative to the store."""
        return [self.shard_path(shard) for shard in range(self.n_shards)]

    def shard_chunks(self, shard: int) -> int:
        """Chunks of a shard that hold rows; the last shard may have fewer than `chunks_per_shard`."""
        rows = min(self.rows_per_shard, self.shape[0] - shard * self.rows_per_shard)
        return -(-rows // self.rows_per_chunk)

    def zarr_json(self) -> dict[str, Json]:
        """Contents of the array's zarr.json."""
        little: Json = {"name": "bytes", "configuration": {"endian": "little"}}
        body: list[Json] = [little]
        if self.compressor == "shuffled":
            body.append({"name": "blosc", "configuration": _blosc_configuration(np.dtype(self.dtype).itemsize)})
        elif self.compressor != "none":
            body.append({"name": "zstd", "configuration": {"level": 1, "checksum": True}})
        body.append({"name": "crc32c"})
        width: list[Json] = list(self.shape[1:])
        sharding: Json = {
            "chunk_shape": [self.rows_per_chunk, *width],
            "codecs": body,
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.zarr_type,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.rows_per_shard, *width]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.fill_value,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": dict(self.attributes),
            "storage_transformers": [],
        }


def encode_chunk(chunk: np.ndarray, compressor: str) -> bytes:
    """Bytes of one chunk as zarr's codecs `bytes, [zstd | blosc,] crc32c` write them."""
    body = np.ascontiguousarray(chunk).tobytes()
    if compressor == "zstd":
        body = _ZSTD.encode(body)
    elif compressor == "shuffled":
        body = _blosc(chunk.itemsize).encode(body)
    elif compressor == "zstd_literals":
        body = _literals().compress(body)
    return body + google_crc32c.value(body).to_bytes(CRC_BYTES, "little")


def _blosc_configuration(itemsize: int) -> dict[str, Json]:
    return {"cname": "zstd", "clevel": _BLOSC_LEVEL, "shuffle": "shuffle", "typesize": itemsize, "blocksize": 0}


@cache
def _blosc(itemsize: int) -> Blosc:
    return Blosc(cname="zstd", clevel=_BLOSC_LEVEL, shuffle=Blosc.SHUFFLE, blocksize=0, typesize=itemsize)


@cache
def _literals() -> zstandard.ZstdCompressor:
    # The bytes of a plane have no repetitions, only a skewed histogram: with matches kept out, what is left is the
    # entropy coder, which is smaller, three times as quick to write and twice as quick to read (docs/log.md).
    parameters = zstandard.ZstdCompressionParameters.from_level(
        1, strategy=1, min_match=7, hash_log=6, chain_log=6, target_length=0, write_checksum=1, write_content_size=1
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def stored_crc(data: np.ndarray) -> int:
    """The crc32c that a chunk or an index (uint8) ends with."""
    return int.from_bytes(data[-CRC_BYTES:].tobytes(), "little")


def crc_matches(data: np.ndarray) -> bool:
    """Whether the last four bytes of a chunk or an index (uint8) are the crc32c of the rest."""
    return bool(google_crc32c.value(data[:-CRC_BYTES]) == stored_crc(data))


def decode_chunk(encoded: np.ndarray, compressor: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The chunk in `encoded` (uint8); a view of the same memory when it is not compressed.

    Raises: StoreError if it does not hold exactly `shape`.
    """
    body = encoded[:-CRC_BYTES]
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if compressor == "shuffled":
        body = _unshuffled(body, n_bytes)
    elif compressor != "none":
        body = _decompress(body, n_bytes)
    if body.nbytes != n_bytes:
        raise StoreError(f"a chunk decodes to {body.nbytes} bytes instead of {n_bytes}")
    return body.view(dtype).reshape(shape)


def _decompress(body: np.ndarray, n_bytes: int) -> np.ndarray:
    # A hostile frame may claim any size: it is compared before a byte is decoded, and the destination is ours.
    if _content_bytes(body) != n_bytes:
        raise StoreError(f"a zstd chunk does not hold the {n_bytes} bytes it must")
    target = np.empty(n_bytes, np.uint8)
    try:
        _ZSTD.decode(body, target)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"a zstd chunk cannot be decoded ({error})") from None
    return target


def _unshuffled(body: np.ndarray, n_bytes: int) -> np.ndarray:
    # As with zstd, what a hostile header claims is compared before a byte is decoded: of all content, of all of itself.
    claimed = body[4:_BLOSC_HEADER_BYTES]
    if len(body) < _BLOSC_HEADER_BYTES or claimed.view("<u4")[[0, 2]].tolist() != [n_bytes, len(body)]:
        raise StoreError(f"a blosc chunk does not hold the {n_bytes} bytes it must")
    target = np.empty(n_bytes, np.uint8)
    try:
        _blosc(1).decode(body, target)  # the header says how it was shuffled
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"a blosc chunk cannot be decoded ({error})") from None
    return target


def _content_bytes(frame: np.ndarray) -> int:
    """The size that a zstd frame's header claims for its content; -1 where it claims none, or is no header."""
    try:
        return int(zstandard.frame_content_size(frame[:_HEADER_BYTES].tobytes()))
    except zstandard.ZstdError:
        return -1


def index_bytes(spec: ArraySpec) -> int:
    """Size of the index at the end of a shard file."""
    return spec.chunks_per_shard * _INDEX_ENTRY_BYTES + CRC_BYTES


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


def shard_bytes(spec: ArraySpec, shard: int) -> int:
    """Size of a shard file: exact without compression, and a bound with it for anything zstd can shrink at all."""
    chunk = spec.rows_per_chunk * math.prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize + CRC_BYTES
    return spec.shard_chunks(shard) * chunk + spec.chunks_per_shard * _INDEX_ENTRY_BYTES + CRC_BYTES


def largest_shard_bytes(spec: ArraySpec, shard: int) -> int:
    """What a shard file can have at most: zstd adds to what it cannot shrink, an eighth and its own frames at worst."""
    n_bytes = shard_bytes(spec, shard)
    return n_bytes if spec.compressor == "none" else n_bytes + n_bytes // 8 + _FRAME_BYTES
