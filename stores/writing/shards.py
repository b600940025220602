"""Rows as they go to a site's shard files: checked, encoded, cut into chunks, with the index that zarr expects."""

import hashlib
from pathlib import Path
from typing import Protocol

import google_crc32c
import numpy as np

from strata_sae.stores.errors import UnfitRows
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.encodings import Columns, dequantise, quantise, split_planes, to_float32, to_stored
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.format.shards import CRC_BYTES, MISSING, ArraySpec, encode_chunk


class ShardWriter:
    """Writes one shard file row by row, holding one chunk in memory; the file is durable when `finish` returns."""

    def __init__(self, files: FileSystem, path: Path, spec: ArraySpec) -> None:
        self._files, self._path, self._spec = files, path, spec
        self._descriptor = files.create(path)
        self._chunk = np.empty((spec.rows_per_chunk, *spec.shape[1:]), spec.dtype)
        self._filled = 0
        self._index: list[tuple[int, int]] = []
        self._chunk_crcs: list[str] = []
        self._n_bytes = 0
        self._digest = hashlib.sha256()

    def append(self, rows: np.ndarray) -> None:
        """Add rows [n, ...] of the stored type."""
        done = 0
        while done < len(rows):
            take = min(len(rows) - done, len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + take] = rows[done : done + take]
            self._filled += take
            done += take
            if self._filled == len(self._chunk):
                self._write_chunk()

    def finish(self) -> FileRecord:
        """Write the last chunk and the index, and sync.

        Returns: the file's record, under the path that it was written to.
        """
        if self._filled:
            # zarr's chunks are always whole: what lies past the array's end is fill value.
            self._chunk[self._filled :] = _fill(self._spec)
            self._write_chunk()
        missing = [(MISSING, MISSING)] * (self._spec.chunks_per_shard - len(self._index))
        index = np.array(self._index + missing, "<u8").tobytes()
        index_crc = google_crc32c.value(index)
        self._write(index + index_crc.to_bytes(CRC_BYTES, "little"))
        self._files.sync(self._descriptor)
        self.close()
        digest = self._digest.hexdigest()
        return FileRecord(str(self._path), self._n_bytes, digest, f"{index_crc:08x}", "".join(self._chunk_crcs))

    def close(self) -> None:
        """Close the file, finished or not."""
        if self._descriptor >= 0:
            self._files.close(self._descriptor)
            self._descriptor = -1

    def _write_chunk(self) -> None:
        encoded = encode_chunk(self._chunk, self._spec.compressor)
        self._index.append((self._n_bytes, len(encoded)))
        self._chunk_crcs.append(encoded[: -CRC_BYTES - 1 : -1].hex())  # stored little-endian, written as a number
        self._write(encoded)
        self._filled = 0

    def _write(self, data: bytes) -> None:
        self._files.write(self._descriptor, data)
        self._digest.update(data)
        self._n_bytes += len(data)


def _fill(spec: ArraySpec) -> float | int:
    return float("nan") if spec.fill_value == "NaN" else int(spec.fill_value)


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
    """Euclidean norms [n], float32. Raises: UnfitRows at the first row that is not finite, naming it."""
    with np.errstate(over="ignore"):  # a norm beyond float32 is refused below
        norms_N = np.sqrt(np.einsum("nm,nm->n", rows_NM, rows_NM, dtype=np.float64)).astype(np.float32)
    finite_N = np.isfinite(norms_N)
    if not finite_N.all():
        row = int(np.argmin(finite_N))
        bad = rows_NM[row][~np.isfinite(rows_NM[row])]
        value = float(bad[0]) if len(bad) else "a norm beyond float32"
        raise UnfitRows(
            f"site {site}, row {first_row + row}: the activation holds {value}; a store holds finite numbers only. "
            f"Run the model in float32 or bfloat16 (model.dtype), or store it so (store.encoding)"
        )
    return norms_N
