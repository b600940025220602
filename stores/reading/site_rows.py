"""The rows of one site, in whichever encoding they are stored."""

from pathlib import Path
from typing import Protocol

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.places import LocalPlace, Place
from strata_sae.stores.format.commits import CALIBRATION, commit_path, read_commit
from strata_sae.stores.format.encodings import Columns, dequantise, merge_planes, to_float32
from strata_sae.stores.format.plan import ARRAYS, Plan
from strata_sae.stores.reading.array import ShardRecords, StoredArray, shard_records


def is_calibrated(store: Path, plan: Plan) -> bool:
    """Whether units may be filled: the columns are committed, or the encoding needs none."""
    return plan.encoding != "int8" or commit_path(store, plan, CALIBRATION).exists()


def read_columns(place: Place, plan: Plan, arrays: dict[str, ShardRecords]) -> dict[str, Columns]:
    """The columns of every site. `arrays`: what is known of their files, by array.

    Raises: StoreError if they are damaged, of another site, or not there.
    """
    return {site: _checked(place, site, plan, arrays) for site in plan.column_specs}


def committed_columns(store: Path, plan: Plan) -> dict[str, Columns]:
    """The columns of a store that is being filled. Raises: StoreError if they are not committed."""
    if plan.encoding != "int8":
        return {}
    record = read_commit(store, plan, CALIBRATION)
    if record is None:
        raise StoreError(f"{store}: its columns are not calibrated; run extract again")
    specs = [spec for site in plan.column_specs.values() for spec in site.values()]
    arrays = {spec.path: shard_records(plan.version, spec, record.files) for spec in specs}
    return read_columns(LocalPlace(store, mapped=True), plan, arrays)


def _checked(place: Place, site: str, plan: Plan, arrays: dict[str, ShardRecords]) -> Columns:
    specs = plan.column_specs[site]
    columns = Columns(
        *(
            np.array(StoredArray(place, specs[name], arrays[specs[name].path]).rows(0, plan.sites[site]))
            for name in ("column_offset", "column_scale")
        )
    )
    if not (np.isfinite(columns.offset).all() and np.isfinite(columns.scale).all() and (columns.scale > 0).all()):
        raise StoreError(f"{place.name}: site {site}: column_offset or column_scale is not a finite, positive number")
    return columns


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

    def touch(self, chunk: int, keep: int) -> None:
        """See `StoredArray.touch`."""


class PlainRows:
    """Rows stored as they are."""

    columns: Columns | None = None
    has_scales = False

    def __init__(self, *arrays: StoredArray) -> None:
        """`arrays`: those with a number of every row and column, [N, M]."""
        self._arrays, spec = arrays, arrays[0].spec
        self.shape, self.rows_per_chunk = (spec.shape[0], spec.shape[1]), spec.rows_per_chunk
        self.coded_dtype = np.dtype(spec.dtype)

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `SiteRows.coded`."""
        return self._arrays[0].chunk(chunk), None

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """See `SiteRows.decoded`."""
        return coded

    def will_need(self, chunk: int) -> None:
        """See `SiteRows.will_need`."""
        for array in self._arrays:
            array.will_need(chunk)

    def touch(self, chunk: int, keep: int) -> None:
        """See `SiteRows.touch`."""
        for array in self._arrays:
            array.touch(chunk, keep)


class PlanedRows(PlainRows):
    """bfloat16 whose upper and lower bytes lie in two arrays."""

    def __init__(self, high: StoredArray, low: StoredArray) -> None:
        super().__init__(high, low)
        self.coded_dtype = np.dtype(np.uint16)

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `SiteRows.coded`."""
        high, low = self._arrays
        return merge_planes(high.chunk(chunk), low.chunk(chunk)), None


class QuantisedRows(PlainRows):
    """int8 rows; a batch is decoded when it is served, so that a window takes a quarter of its float32 size."""

    has_scales = True

    def __init__(self, values: StoredArray, scale: StoredArray, columns: Columns) -> None:
        super().__init__(values)
        self._scale, self._columns = scale, columns
        self.columns = columns

    def coded(self, chunk: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See `SiteRows.coded`."""
        return self._arrays[0].chunk(chunk), self._scale.chunk(chunk)

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """See `SiteRows.decoded`."""
        assert scales is not None
        return dequantise(coded, scales, self._columns)


class WrappedRows:
    """What `SiteRows` around others have from those: all but `coded`."""

    def __init__(self, rows: SiteRows) -> None:
        self.rows = rows
        self.shape, self.rows_per_chunk = rows.shape, rows.rows_per_chunk
        self.coded_dtype, self.has_scales, self.columns = rows.coded_dtype, rows.has_scales, rows.columns

    def decoded(self, coded: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
        """See `SiteRows.decoded`."""
        return self.rows.decoded(coded, scales)

    def will_need(self, chunk: int) -> None:
        """See `SiteRows.will_need`."""
        self.rows.will_need(chunk)

    def touch(self, chunk: int, keep: int) -> None:
        """See `SiteRows.touch`."""
        self.rows.touch(chunk, keep)


COMPARED_ROWS = 8
"""Of a chunk, evenly spread; all of them would take longer than to read them (docs/log.md)."""
EXACT, ROUNDED = 1e-6, 0.005
"""How far a norm may be off, of itself. A row that was captured in a float encoding has the very norm that is stored:
not one may be off. A row that was rounded after its norm was taken (int8, and slices: docs/decisions/0008) has not:
bfloat16 moves an element by 2^-8 of itself at most, hence the norm by 0.4 %; int8, whose noise is 1e-4 of the variance
and prefers no direction, by 0.1 % where rows have 64 columns. Of these, half of the rows must be within the bound."""


class NormCheckedRows(WrappedRows):
    """`SiteRows` around others; some rows of each chunk are held against their norms when it is first read."""

    def __init__(self, rows: SiteRows, norms: StoredArray, *, rounded: bool, where: str) -> None:
        super().__init__(rows)
        self._rounded = rounded
        self._norms, self._where = norms, where
        self._checked = np.zeros(norms.spec.n_chunks, bool)

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


def site_rows(place: Place, plan: Plan, records: dict[str, ShardRecords]) -> dict[str, tuple[SiteRows, StoredArray]]:
    """Rows and norms of every site. `records`: what every array's shards must be, by the array's path."""
    columns = read_columns(place, plan, records)
    found: dict[str, tuple[SiteRows, StoredArray]] = {}
    for site, specs in plan.site_specs.items():
        arrays = {name: StoredArray(place, spec, records[spec.path]) for name, spec in specs.items()}
        rows: SiteRows
        if plan.encoding == "int8":
            rows = QuantisedRows(arrays["values"], arrays["scale"], columns[site])
        elif plan.compressor == "planes":
            rows = PlanedRows(arrays["high"], arrays["low"])
        else:
            rows = PlainRows(arrays["values"])
        if plan.version == 1:
            captured = plan.lineage is None or plan.lineage.kind == "sibling"
            rounded = plan.encoding == "int8" or not captured
            where = f"{place.name}/{ARRAYS}/sites/{site}"
            rows = NormCheckedRows(rows, arrays["norm"], rounded=rounded, where=where)
        found[site] = rows, arrays["norm"]
    return found
