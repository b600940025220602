"""int8: value = (q * scale) * column_scale + column_offset, with one scale a row and two numbers a column."""

from typing import NamedTuple

import numpy as np

LARGEST = 127
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
    scale_N = np.maximum(z_NM.max(axis=1, initial=0.0), -z_NM.min(axis=1, initial=0.0)) / np.float32(LARGEST)
    divisor_N = np.where(scale_N > 0, scale_N, np.float32(1))
    z_NM /= divisor_N[:, None]
    np.rint(z_NM, out=z_NM)
    np.clip(z_NM, -LARGEST, LARGEST, out=z_NM)
    return z_NM.astype(np.int8), scale_N


def dequantise(q_NM: np.ndarray, scale_N: np.ndarray, columns: Columns) -> np.ndarray:
    """The rows, float32, in the order of operations that the formula states."""
    rows_NM = q_NM.astype(np.float32)
    rows_NM *= scale_N[:, None]
    rows_NM *= columns.scale
    rows_NM += columns.offset
    return rows_NM
