"""Rows of one site as they go to its files: checked, encoded, and given back as a reader will see them."""

from typing import Protocol

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.format.encodings import split_planes, to_float32, to_stored
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.quantisation import Columns, dequantise, quantise
from strata_sae.stores.writing.shards import ShardWriter


class SiteEncoder(Protocol):
    """Writes the rows of one site."""

    def append(
        self, rows_NM: np.ndarray, norms_N: np.ndarray | None, scales_N: np.ndarray | None, first_row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write rows. Returns: norms [n] and the rows as they will be read [n, M], float32."""


def site_encoder(plan: Plan, site: str, writers: dict[str, ShardWriter], columns: dict[str, Columns]) -> SiteEncoder:
    """The encoder of a site in the plan's encoding."""
    if plan.encoding == "int8":
        return _Int8(site, writers, columns[site])
    return _Floats(site, writers, plan.encoding)


class _Floats:
    def __init__(self, site: str, writers: dict[str, ShardWriter], encoding: str) -> None:
        self._site, self._writers, self._encoding = site, writers, encoding

    def append(
        self, rows_NM: np.ndarray, norms_N: np.ndarray | None, scales_N: np.ndarray | None, first_row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        stored_NM = to_stored(rows_NM, self._encoding, self._site, first_row)
        wide_NM = to_float32(stored_NM)
        own_N = finite_norms(self._site, wide_NM, first_row)
        norms_N = own_N if norms_N is None else norms_N
        if "values" in self._writers:
            self._writers["values"].append(stored_NM)
        else:
            high_NM, low_NM = split_planes(stored_NM)
            self._writers["high"].append(high_NM)
            self._writers["low"].append(low_NM)
        self._writers["norm"].append(norms_N)
        return norms_N, wide_NM


class _Int8:
    def __init__(self, site: str, writers: dict[str, ShardWriter], columns: Columns) -> None:
        self._site, self._writers, self._columns = site, writers, columns

    def append(
        self, rows_NM: np.ndarray, norms_N: np.ndarray | None, scales_N: np.ndarray | None, first_row: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if scales_N is None:
            wide_NM = to_float32(rows_NM)
            own_N = finite_norms(self._site, wide_NM, first_row)
            norms_N = own_N if norms_N is None else norms_N
            rows_NM, scales_N = quantise(wide_NM, self._columns)
        stored_NM = dequantise(rows_NM, scales_N, self._columns)
        finite_norms(self._site, stored_NM, first_row)
        assert norms_N is not None, "rows that are encoded already come with the norms they had before"
        self._writers["values"].append(rows_NM)
        self._writers["scale"].append(scales_N)
        self._writers["norm"].append(norms_N)
        return norms_N, stored_NM


def finite_norms(site: str, rows_NM: np.ndarray, first_row: int) -> np.ndarray:
    """Euclidean norms [n], float32. Raises: StoreError at the first row that is not finite, naming it."""
    with np.errstate(over="ignore"):  # a norm beyond float32 is refused below
        norms_N = np.sqrt(np.einsum("nm,nm->n", rows_NM, rows_NM, dtype=np.float64)).astype(np.float32)
    finite_N = np.isfinite(norms_N)
    if not finite_N.all():
        row = int(np.argmin(finite_N))
        bad = rows_NM[row][~np.isfinite(rows_NM[row])]
        value = float(bad[0]) if len(bad) else "a norm beyond float32"
        raise StoreError(
            f"site {site}, row {first_row + row}: the activation holds {value}; a store holds finite numbers only. "
            f"Run the model in float32 or bfloat16 (model.dtype), or store it so (store.encoding)"
        )
    return norms_N
