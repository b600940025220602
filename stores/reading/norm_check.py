"""Version 1 has no checksum that ties a chunk to its place; the norms of its rows, which are stored too, do."""

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.encodings import to_float32
from strata_sae.stores.reading.array import StoredArray
from strata_sae.stores.reading.site_rows import SiteRows

COMPARED_ROWS = 8
"""Of a chunk, evenly spread; all of them would take longer than to read them (docs/log.md)."""
EXACT, ROUNDED = 1e-6, 0.005
"""How far a norm may be off, of itself. A row that was captured in a float encoding has the very norm that is stored:
not one may be off. A row that was rounded after its norm was taken (int8, and slices: docs/decisions/0008) has not:
bfloat16 moves an element by 2^-8 of itself at most, hence the norm by 0.4 %; int8, whose noise is 1e-4 of the variance
and prefers no direction, by 0.1 % where rows have 64 columns. Of these, half of the rows must be within the bound."""


class NormCheckedRows:
    """`SiteRows` around others; some rows of each chunk are held against their norms when it is first read."""

    def __init__(self, rows: SiteRows, norms: StoredArray, *, rounded: bool, where: str) -> None:
        self.rows, self._rounded = rows, rounded
        self.shape, self.rows_per_chunk = rows.shape, rows.rows_per_chunk
        self.coded_dtype, self.has_scales, self.columns = rows.coded_dtype, rows.has_scales, rows.columns
        self._norms, self._where = norms, where
        self._checked = np.zeros(norms.n_chunks, bool)

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `SiteRows.coded`. Raises: StoreError if the compared rows have other norms than are stored for them."""
        coded, scales = self.rows.coded(chunk)
        if not self._checked[chunk]:
            self._check(chunk, coded, scales)
            self._checked[chunk] = True
        return coded, scales

    def _check(self, chunk: int, coded: np.ndarray, scales: np.ndarray | None) -> None:
        some = slice(None, None, max(1, len(coded) // COMPARED_ROWS))
        rows_NM = to_float32(self.rows.decoded(coded[some], None if scales is None else scales[some]))
        wide_NM = rows_NM.astype(np.float64)
        norms_N = self._norms.chunk(chunk)[some].astype(np.float64)
        found_N = np.sqrt(np.einsum("nm,nm->n", wide_NM, wide_NM))
        bound, allowed = (ROUNDED, len(norms_N) // 2) if self._rounded else (EXACT, 0)
        if np.count_nonzero(np.abs(found_N - norms_N) <= bound * norms_N) < len(norms_N) - allowed:
            start, stop = self._norms.chunk_rows(chunk)
            raise StoreError(
                f"{self._where}: rows {start}..{stop - 1} do not have the norms that are stored for them; "
                f"a file was exchanged with another, fetch the store again"
            )

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """See `SiteRows.decoded`."""
        return self.rows.decoded(coded, scales)

    def will_need(self, chunk: int) -> None:
        """See `SiteRows.will_need`."""
        self.rows.will_need(chunk)

    def hold(self, chunk: int, at_most: int) -> None:
        """See `SiteRows.hold`."""
        self.rows.hold(chunk, at_most)
