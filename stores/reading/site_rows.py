"""The rows of one site, in whichever encoding they are stored."""

from typing import Protocol

import numpy as np

from strata_sae.stores.format.arrays import ArraySpec
from strata_sae.stores.format.encodings import merge_planes
from strata_sae.stores.format.quantisation import Columns, dequantise
from strata_sae.stores.reading.array import StoredArray


class SiteRows(Protocol):
    """Rows [N, M] by chunk. What is moved about in memory (`coded`) may be smaller than what is computed with."""

    shape: tuple[int, int]
    rows_per_chunk: int
    coded_dtype: np.dtype
    """Type of coded rows."""

    @property
    def columns(self) -> Columns | None:
        """What columns are shifted and divided by; int8 only."""

    has_scales: bool
    """Whether a coded row needs its scale to be decoded."""

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Coded rows [n, M] of a chunk, and their scales [n] (float32)."""

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """Rows to compute with: float32, float16, or uint16 holding the bits of bfloat16."""

    def will_need(self, chunk: int) -> None:
        """Ask for a chunk to be read ahead."""

    def hold(self, chunk: int, at_most: int) -> None:
        """See `StoredArray.hold`."""


class PlainRows:
    """Rows stored as they are."""

    columns: Columns | None = None
    has_scales = False

    def __init__(self, arrays: dict[str, StoredArray]) -> None:
        self._values = arrays["values"]
        self.shape, self.rows_per_chunk = _size(self._values.spec)
        self.coded_dtype = np.dtype(self._values.spec.dtype)

    def coded(self, chunk: int) -> tuple[np.ndarray, None]:
        """See `SiteRows.coded`."""
        return self._values.chunk(chunk), None

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """See `SiteRows.decoded`."""
        return coded

    def will_need(self, chunk: int) -> None:
        """See `SiteRows.will_need`."""
        self._values.will_need(chunk)

    def hold(self, chunk: int, at_most: int) -> None:
        """See `SiteRows.hold`."""
        self._values.hold(chunk, at_most)


class PlanedRows:
    """bfloat16 whose upper and lower bytes lie in two arrays."""

    columns: Columns | None = None
    has_scales = False
    coded_dtype = np.dtype(np.uint16)

    def __init__(self, arrays: dict[str, StoredArray]) -> None:
        self._high, self._low = arrays["high"], arrays["low"]
        self.shape, self.rows_per_chunk = _size(self._high.spec)

    def coded(self, chunk: int) -> tuple[np.ndarray, None]:
        """See `SiteRows.coded`."""
        return merge_planes(self._high.chunk(chunk), self._low.chunk(chunk)), None

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """See `SiteRows.decoded`."""
        return coded

    def will_need(self, chunk: int) -> None:
        """See `SiteRows.will_need`."""
        self._high.will_need(chunk)
        self._low.will_need(chunk)

    def hold(self, chunk: int, at_most: int) -> None:
        """See `SiteRows.hold`."""
        self._high.hold(chunk, at_most)
        self._low.hold(chunk, at_most)


class QuantisedRows:
    """int8 rows; a batch is decoded when it is served, so that a window takes a quarter of its float32 size."""

    has_scales = True
    coded_dtype = np.dtype(np.int8)

    def __init__(self, arrays: dict[str, StoredArray], columns: Columns) -> None:
        self._values, self._scale = arrays["values"], arrays["scale"]
        self.columns: Columns | None = columns
        self.shape, self.rows_per_chunk = _size(self._values.spec)

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """See `SiteRows.coded`."""
        return self._values.chunk(chunk), self._scale.chunk(chunk)

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """See `SiteRows.decoded`."""
        assert scales is not None
        assert self.columns is not None
        return dequantise(coded, scales, self.columns)

    def will_need(self, chunk: int) -> None:
        """See `SiteRows.will_need`."""
        self._values.will_need(chunk)

    def hold(self, chunk: int, at_most: int) -> None:
        """See `SiteRows.hold`."""
        self._values.hold(chunk, at_most)


def _size(spec: ArraySpec) -> tuple[tuple[int, int], int]:
    return (spec.shape[0], spec.shape[1]), spec.rows_per_chunk
