"""The immutable plan of a store: which files it will hold, what plain zarr is told of them, and how large they are."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, canonical_json
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.encodings import CODECS
from strata_sae.stores.format.records import FileRecord, Lineage, files_json
from strata_sae.stores.format.shards import ArraySpec, shard_bytes

VERSION = 2
VERSIONS = (1, 2)
"""Which this program reads; it begins stores of version 2 only."""
SITE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
ARRAYS = "activations.zarr"
PLAN, MANIFEST = "plan.json", "MANIFEST.json"
COMMITS, STATISTICS, TIMINGS, STAGING, EXTRAS = "commits", "statistics", "timings", "staging", "extras"
COMMITS_PER_FOLDER = 1000
EXTRA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
TOKEN_BYTES = "token_bytes.json"
"""The one of the extras that every store has."""
ROW_EXTRAS = ("labels.", "truth.")
"""How names of extras begin that speak of single rows."""

TOKEN_FIELDS = {"token_id": "<i4", "document": "<i8", "position": "<i4", "flags": "|u1"}
TOKEN_ROWS_PER_CHUNK = 2**16
TOKEN_ROWS_PER_SHARD = 2**24
FLAG_BOS, FLAG_SPECIAL, FLAG_TEMPLATE = 1, 2, 4

_ZARR_TYPES = {"<i4": "int32", "<i8": "int64", "|u1": "uint8", "|i1": "int8", "<f4": "float32"}


_GROUP: dict[str, Json] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
"""Contents of a group's zarr.json."""


def _numbers(path: str, n: int, rows_per_chunk: int, rows_per_shard: int) -> ArraySpec:
    """An array [n] of float32 numbers."""
    return ArraySpec(path, (n,), "<f4", "float32", "NaN", rows_per_chunk, rows_per_shard, "none", {})


def group_paths(sites: Iterable[str]) -> list[str]:
    """Folders of the zarr groups, relative to the store."""
    return [ARRAYS, f"{ARRAYS}/tokens", f"{ARRAYS}/sites", *(f"{ARRAYS}/sites/{site}" for site in sites)]


FORMAT = "strata plan"


@dataclass(frozen=True)
class Plan:
    """What a store holds. Built by the plan step, or read back from plan.json."""

    n_rows: int
    n_documents: int
    splits: dict[str, tuple[int, int]]
    """Split name -> rows [start, stop)."""
    sites: dict[str, int]
    """Site name -> width M."""
    encoding: str
    compressor: str
    rows_per_chunk: int
    """R; also the block that batches are mixed from."""
    rows_per_unit: int
    """Rows of one unit of work: one shard of every site."""
    files: dict[str, FileRecord]
    """Files written by the plan step, by path: the token map, and the extras."""
    config: dict[str, Json]
    provenance: dict[str, Json]
    lineage: Lineage | None = None
    """Where a derived store comes from. None: from a model."""
    calibration: list[tuple[int, int]] | None = None
    """int8 only: the rows [start, stop) that its columns are calibrated on."""
    version: int = VERSION
    """Of the format of the whole store."""

    @cached_property
    def data(self) -> bytes:
        """The bytes of plan.json."""
        fields: dict[str, Json] = {
            "format": FORMAT,
            "version": self.version,
            "n_rows": self.n_rows,
            "n_documents": self.n_documents,
            "splits": {name: list(rows) for name, rows in self.splits.items()},
            "sites": dict(self.sites),
            "encoding": self.encoding,
            "compressor": self.compressor,
            "rows_per_chunk": self.rows_per_chunk,
            "rows_per_unit": self.rows_per_unit,
            "files": files_json(self.files),
            "config": self.config,
            "provenance": self.provenance,
        }
        if self.lineage is not None:
            fields["lineage"] = self.lineage.json()
        if self.calibration is not None:
            fields["calibration"] = {"rows": [list(rows) for rows in self.calibration]}
        return canonical_json(fields)

    @cached_property
    def id(self) -> str:
        """sha256 of plan.json."""
        return sha256(self.data)

    @property
    def order_id(self) -> str:
        """Names the order of batches: its own id, or that of the store whose very rows it holds."""
        return self.lineage.order_id if self.lineage and self.lineage.order_id else self.id

    @property
    def n_units(self) -> int:
        """Units of work: shards of every site."""
        return -(-self.n_rows // self.rows_per_unit)

    def unit_rows(self, unit: int) -> tuple[int, int]:
        """Rows [start, stop) of a unit."""
        start = unit * self.rows_per_unit
        return start, min(start + self.rows_per_unit, self.n_rows)

    @property
    def vocabulary_file(self) -> str:
        """The file that says what every token id stands for, relative to the store."""
        return "vocabulary.json" if self.version == 1 else f"{EXTRAS}/{TOKEN_BYTES}"

    @cached_property
    def token_specs(self) -> dict[str, ArraySpec]:
        """The token map's arrays by field."""
        return {
            field: ArraySpec(
                path=f"{ARRAYS}/tokens/{field}",
                shape=(self.n_rows,),
                dtype=dtype,
                zarr_type=_ZARR_TYPES[dtype],
                fill_value=255 if dtype == "|u1" else -1,
                rows_per_chunk=TOKEN_ROWS_PER_CHUNK,
                rows_per_shard=TOKEN_ROWS_PER_SHARD,
                compressor="zstd",
                attributes={},
            )
            for field, dtype in TOKEN_FIELDS.items()
        }

    @cached_property
    def site_specs(self) -> dict[str, dict[str, ArraySpec]]:
        """Site -> array name -> spec."""
        return {site: self._arrays_of(site, d_model) for site, d_model in self.sites.items()}

    def _arrays_of(self, site: str, d_model: int) -> dict[str, ArraySpec]:
        """A site's arrays by name.

        `values` [N, M], or with byte planes `high` and `low` [N, M]; `scale` [N] for int8; `norm` [N], the Euclidean
        norm of each row as it was captured.
        """
        if not SITE_NAME.fullmatch(site) or set(site) == {"."}:
            raise StoreError(f"site name {site!r} is not allowed: letters, digits, '_', '.', '-', at most 128")
        codec = CODECS[self.encoding]
        values = ArraySpec(
            path=f"{ARRAYS}/sites/{site}/values",
            shape=(self.n_rows, d_model),
            dtype=codec.dtype,
            zarr_type=codec.zarr_type,
            fill_value=codec.fill_value,
            rows_per_chunk=self.rows_per_chunk,
            rows_per_shard=self.rows_per_unit,
            compressor=self.compressor,
            attributes={"dtype": self.encoding},
        )
        norm = _numbers(f"{ARRAYS}/sites/{site}/norm", self.n_rows, self.rows_per_chunk, self.rows_per_unit)
        if self.compressor == "planes":
            plane = values._replace(dtype="|u1", zarr_type="uint8", fill_value=255)
            high = plane._replace(path=f"{ARRAYS}/sites/{site}/high", compressor="zstd_literals")
            low = plane._replace(path=f"{ARRAYS}/sites/{site}/low", compressor="none")
            return {"high": high, "low": low, "norm": norm}
        if self.encoding == "int8":
            return {"values": values, "scale": norm._replace(path=f"{ARRAYS}/sites/{site}/scale"), "norm": norm}
        return {"values": values, "norm": norm}

    def metadata_files(self) -> dict[str, bytes]:
        """Path -> bytes of every zarr.json: all of zarr's metadata is a function of the plan."""
        files = {f"{path}/zarr.json": canonical_json(_GROUP) for path in group_paths(list(self.sites))}
        return files | {f"{spec.path}/zarr.json": canonical_json(spec.zarr_json()) for spec in self.arrays()}

    def arrays(self) -> list[ArraySpec]:
        """Every zarr array of the store."""
        by_site = [*self.site_specs.values(), *self.column_specs.values()]
        return [*self.token_specs.values(), *(spec for site in by_site for spec in site.values())]

    def unit_files(self, unit: int) -> list[str]:
        """Paths of the shard files of a unit."""
        return [spec.shard_path(unit) for site in self.site_specs.values() for spec in site.values()]

    @cached_property
    def column_specs(self) -> dict[str, dict[str, ArraySpec]]:
        """Site -> array name -> spec of what int8 keeps per column; empty in other encodings.

        value = (q * scale) * column_scale + column_offset.
        """
        if self.encoding != "int8":
            return {}
        return {
            site: {
                name: _numbers(f"{ARRAYS}/sites/{site}/{name}", m, m, m) for name in ("column_offset", "column_scale")
            }
            for site, m in self.sites.items()
        }

    def calibration_files(self) -> list[str]:
        """Paths of the shard files of the calibration."""
        return [spec.shard_path(0) for site in self.column_specs.values() for spec in site.values()]

    def bytes_per_row(self, site: str) -> int:
        """Bytes of one row's values before compression."""
        return self.sites[site] * int(CODECS[self.encoding].dtype[-1]) + 4 * (self.encoding == "int8")


def unit_bytes(plan: Plan, unit: int) -> int:
    """Size of a unit's shard files."""
    return sum(shard_bytes(spec, unit) for specs in plan.site_specs.values() for spec in specs.values())


def activation_bytes(plan: Plan) -> int:
    """Size of the shard files of all sites; exact without compression."""
    columns = sum(shard_bytes(spec, 0) for specs in plan.column_specs.values() for spec in specs.values())
    return columns + sum(unit_bytes(plan, unit) for unit in range(plan.n_units))


def token_map_bytes(plan: Plan) -> int:
    """Size of the token map before compression, which is always on: a bound."""
    return sum(shard_bytes(spec, shard) for spec in plan.token_specs.values() for shard in range(spec.n_shards))
