"""A site's rows whose decoded chunks are kept on a local disk."""

from collections.abc import Callable

import numpy as np

from strata_sae.stores.reading.chunk_cache import ChunkCache, chunk_key
from strata_sae.stores.reading.site_rows import SiteRows


class CachedRows:
    """`SiteRows` around others: each chunk is decoded once a machine, as long as the cache has room for it."""

    def __init__(self, rows: SiteRows, cache: ChunkCache, file_sha256: Callable[[int], str]) -> None:
        """`file_sha256(chunk)`: what the commit record says of the file, or files, that hold a chunk."""
        self.rows = rows
        self.shape, self.rows_per_chunk = rows.shape, rows.rows_per_chunk
        self.coded_dtype, self.has_scales, self.columns = rows.coded_dtype, rows.has_scales, rows.columns
        self._cache, self._file_sha256 = cache, file_sha256

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `SiteRows.coded`."""
        file = self._file_sha256(chunk)
        n_rows = min(self.rows_per_chunk, self.shape[0] - chunk * self.rows_per_chunk)
        rows_key, scales_key = chunk_key(file, chunk, "rows"), chunk_key(file, chunk, "scales")
        rows = self._cache.get(rows_key, (n_rows, self.shape[1]), self.coded_dtype.str)
        scales = self._cache.get(scales_key, (n_rows,), "<f4") if self.has_scales and rows is not None else None
        if rows is None or (self.has_scales and scales is None):
            rows, scales = self.rows.coded(chunk)
            self._cache.put(rows_key, rows)
            if scales is not None:
                self._cache.put(scales_key, scales)
        return rows, scales

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """See `SiteRows.decoded`."""
        return self.rows.decoded(coded, scales)

    def will_need(self, chunk: int) -> None:
        """See `SiteRows.will_need`."""
        if not self._has(chunk):
            self.rows.will_need(chunk)

    def hold(self, chunk: int, at_most: int) -> None:
        """See `SiteRows.hold`."""
        self.rows.hold(chunk, at_most)

    def _has(self, chunk: int) -> bool:
        return chunk_key(self._file_sha256(chunk), chunk, "rows") in self._cache
