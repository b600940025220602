"""How an activation row becomes bytes: number formats, compressors, and the checksum that ends every chunk."""

from functools import cache
from typing import NamedTuple

import google_crc32c
import numpy as np
import zstandard
from numcodecs.zstd import Zstd

from strata_sae.stores.errors import StoreError


class Encoding(NamedTuple):
    """A number format on disk."""

    dtype: str
    """numpy's name of the stored type."""
    zarr_type: str
    """zarr's name of the stored type."""
    fill_value: float | int | str
    """What plain zarr shows for a missing chunk: NaN (0xFFFF is a bfloat16 NaN), or -128, which int8 never uses."""


CODECS: dict[str, Encoding] = {
    "float32": Encoding("<f4", "float32", "NaN"),
    "float16": Encoding("<f2", "float16", "NaN"),
    "bfloat16": Encoding("<u2", "uint16", 65535),
    "int8": Encoding("|i1", "int8", -128),
}
"""Encodings of activations by name. zarr 3.1 has no bfloat16: its bits are stored as uint16."""

COMPRESSORS = ("none", "zstd", "planes")

_ZSTD = Zstd(level=1, checksum=True)
CRC_BYTES = 4
_CACHED_ITEMS = 2**15  # 64 KiB of uint16: three passes over it stay in the cache


def to_float32(rows: np.ndarray) -> np.ndarray:
    """Stored rows as float32 numbers; uint16 is taken as the bits of bfloat16. Exact for every encoding."""
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32, copy=False)


def to_stored(rows: np.ndarray, encoding: str, site: str, first_row: int) -> np.ndarray:
    """Rows (float32, uint16 bits of bfloat16, or the stored type already) in a float encoding's stored type.

    Rounds to the nearest, ties to even. Raises: StoreError if a finite value is too large for float16, naming it.
    """
    stored = np.dtype(CODECS[encoding].dtype)
    if rows.dtype == stored:
        return rows
    wide_NM = to_float32(rows)
    if encoding == "bfloat16":
        bits_NM = wide_NM.view(np.uint32)
        rounded_NM = (bits_NM + np.uint32(0x7FFF) + ((bits_NM >> 16) & 1)) >> 16
        return np.where(np.isnan(wide_NM), np.uint32(0x7FC0), rounded_NM).astype(np.uint16)
    with np.errstate(over="ignore"):
        narrow_NM = wide_NM.astype(stored)
    overflow_NM = np.isinf(narrow_NM) & np.isfinite(wide_NM)
    if overflow_NM.any():
        row, column = np.argwhere(overflow_NM)[0].tolist()
        raise StoreError(
            f"site {site}, row {first_row + row}: column {column} is {wide_NM[row, column]:g}, beyond the 65504 that "
            f"{encoding} holds; set store.encoding to bfloat16 or int8, which keep it"
        )
    return narrow_NM


@cache
def _literals() -> zstandard.ZstdCompressor:
    # The bytes of a plane have no repetitions, only a skewed histogram: with matches kept out, what is left is the
    # entropy coder, which is smaller, three times as quick to write and twice as quick to read (docs/log.md).
    knobs = zstandard.ZstdCompressionParameters.from_level(
        1, strategy=1, min_match=7, hash_log=6, chain_log=6, target_length=0, write_checksum=1, write_content_size=1
    )
    return zstandard.ZstdCompressor(compression_params=knobs)


def merge_planes(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The uint16 numbers whose upper and lower bytes are `high` and `low`."""
    merged = np.empty(high.shape, np.uint16)
    flat, upper, lower = merged.reshape(-1), high.reshape(-1), low.reshape(-1)
    for first in range(0, flat.size, _CACHED_ITEMS):
        piece = flat[first : first + _CACHED_ITEMS]
        piece[...] = upper[first : first + _CACHED_ITEMS]
        np.left_shift(piece, 8, out=piece)
        np.bitwise_or(piece, lower[first : first + _CACHED_ITEMS], out=piece)
    return merged


def split_planes(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower bytes of uint16 numbers."""
    return (bits >> 8).astype(np.uint8), bits.astype(np.uint8)


def encode_chunk(chunk: np.ndarray, compressor: str) -> bytes:
    """Bytes of one chunk as zarr's codecs `bytes, [zstd,] crc32c` write them."""
    body = np.ascontiguousarray(chunk).tobytes()
    if compressor == "zstd":
        body = _ZSTD.encode(body)
    elif compressor == "zstd_literals":
        body = _literals().compress(body)
    return body + google_crc32c.value(body).to_bytes(CRC_BYTES, "little")


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
    if compressor != "none":
        body = _decompress(body, n_bytes)
    if body.nbytes != n_bytes:
        raise StoreError(f"a chunk decodes to {body.nbytes} bytes instead of {n_bytes}")
    return body.view(dtype).reshape(shape)


def _decompress(body: np.ndarray, n_bytes: int) -> np.ndarray:
    # A hostile frame may claim any size: it is compared before a byte is decoded, and the destination is ours.
    if _zstd_content_bytes(body) != n_bytes:
        raise StoreError(f"a zstd chunk does not hold the {n_bytes} bytes it must")
    target = np.empty(n_bytes, np.uint8)
    try:
        _ZSTD.decode(body, target)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"a zstd chunk cannot be decoded ({error})") from None
    return target


def _zstd_content_bytes(frame: np.ndarray) -> int | None:
    """Size a zstd frame's header claims for its content, or None where it claims none. Source: RFC 8878, 3.1.1.1."""
    header = frame[:18].tobytes()
    if len(header) < 6 or header[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = header[4]
    single_segment = descriptor >> 5 & 1
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    size = int.from_bytes(header[start : start + width], "little")
    return None if width == 0 else size + (256 if width == 2 else 0)
