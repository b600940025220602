"""How an activation row becomes stored numbers: number formats, byte planes, and int8 with its scales."""

from typing import NamedTuple

import numpy as np

from strata_sae.stores.errors import UnfitRows


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

_CACHED_ITEMS = 2**15  # 64 KiB of uint16: three passes over it stay in the cache


def to_float32(rows: np.ndarray) -> np.ndarray:
    """Stored rows as float32 numbers; uint16 is taken as the bits of bfloat16. Exact for every encoding."""
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32, copy=False)


def to_stored(rows: np.ndarray, encoding: str, site: str, first_row: int) -> np.ndarray:
    """Rows (float32, uint16 bits of bfloat16, or the stored type already) in a float encoding's stored type.

    Rounds to the nearest, ties to even. Raises: UnfitRows if a finite value is too large for float16, naming it.
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
        raise UnfitRows(
            f"site {site}, row {first_row + row}: column {column} is {wide_NM[row, column]:g}, beyond the 65504 that "
            f"{encoding} holds; set store.encoding to bfloat16 or int8, which keep it"
        )
    return narrow_NM


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


LARGEST_INT8 = 127
_OUTLIER_SHARE = 0.25
"""How far a column's scale goes from the spread of ordinary rows (0) to that of all rows, attention sinks included (1).
At 0 a sink's few huge columns cost its others their precision; at 1 ordinary rows lose theirs in those columns. On the
demo's sites noise over variance stays below 1e-4 for both kinds only between (docs/log.md)."""
_ORDINARY_NORM = 3.0
"""Rows up to this multiple of the median norm are ordinary."""


class Columns(NamedTuple):
    """What the columns of a site are shifted and divided by, float32 [M]."""

    offset: np.ndarray
    scale: np.ndarray


def calibrate(rows_NM: np.ndarray) -> Columns:
    """Columns from a sample of rows (float32), in float64 and then rounded once."""
    wide_NM = rows_NM.astype(np.float64)
    norms_N = np.sqrt(np.square(wide_NM).sum(axis=1))
    ordinary_NM = wide_NM[norms_N <= _ORDINARY_NORM * np.median(norms_N)]
    spread_M = ordinary_NM.std(axis=0) ** (1 - _OUTLIER_SHARE) * wide_NM.std(axis=0) ** _OUTLIER_SHARE
    largest = spread_M.max(initial=0.0)
    # A column that never moved in the sample may move later; the smallest scale still lets float32 hold the quotient.
    spread_M = np.maximum(spread_M, 1e-6 * largest if largest > 0 else 1.0)
    return Columns(ordinary_NM.mean(axis=0).astype(np.float32), spread_M.astype(np.float32))


def quantise(rows_NM: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Rows (float32) as q [N, M] (int8, -127..127) and scale [N] (float32): max |q| of a row is 127."""
    z_NM = rows_NM - columns.offset
    z_NM /= columns.scale
    scale_N = np.maximum(z_NM.max(axis=1, initial=0.0), -z_NM.min(axis=1, initial=0.0)) / np.float32(LARGEST_INT8)
    divisor_N = np.where(scale_N > 0, scale_N, np.float32(1))
    z_NM /= divisor_N[:, None]
    np.rint(z_NM, out=z_NM)
    np.clip(z_NM, -LARGEST_INT8, LARGEST_INT8, out=z_NM)
    return z_NM.astype(np.int8), scale_N


def dequantise(q_NM: np.ndarray, scale_N: np.ndarray, columns: Columns) -> np.ndarray:
    """The rows, float32, in the order of operations that the formula states."""
    rows_NM = q_NM.astype(np.float32)
    rows_NM *= scale_N[:, None]
    rows_NM *= columns.scale
    rows_NM += columns.offset
    return rows_NM
