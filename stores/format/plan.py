"""The immutable plan of a store: what it will hold, and how large that is, fixed before the first forward pass."""

from dataclasses import dataclass
from functools import cached_property

from strata_sae.stores.files.canonical import Json, canonical_json
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.arrays import (
    EXTRAS,
    TOKEN_BYTES,
    VERSION,
    column_specs,
    group_json,
    group_paths,
    site_specs,
    token_specs,
)
from strata_sae.stores.format.encodings import CODECS
from strata_sae.stores.format.records import FileRecord, Lineage, files_json
from strata_sae.stores.format.shards import ArraySpec, shard_bytes

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
        return token_specs(self.n_rows)

    @cached_property
    def site_specs(self) -> dict[str, dict[str, ArraySpec]]:
        """Site -> array name -> spec."""
        return {
            site: site_specs(
                site,
                self.n_rows,
                d_model,
                self.encoding,
                self.compressor,
                self.rows_per_chunk,
                self.rows_per_unit,
            )
            for site, d_model in self.sites.items()
        }

    def metadata_files(self) -> dict[str, bytes]:
        """Path -> bytes of every zarr.json: all of zarr's metadata is a function of the plan."""
        files = {f"{path}/zarr.json": canonical_json(group_json()) for path in group_paths(list(self.sites))}
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
        """Site -> array name -> spec of what int8 needs beside its units; empty in other encodings."""
        if self.encoding != "int8":
            return {}
        return {site: column_specs(site, d_model) for site, d_model in self.sites.items()}

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
