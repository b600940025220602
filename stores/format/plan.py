"""The immutable plan of a store: what it will hold, fixed before the first forward pass."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import MAX_JSON_BYTES, canonical_json, parse_canonical, read_plain, sha256
from strata_sae.stores.format.arrays import (
    EXTRA_NAME,
    EXTRAS,
    PLAN,
    SITE_NAME,
    TOKEN_BYTES,
    VERSION,
    VERSIONS,
    ArraySpec,
    column_specs,
    group_json,
    group_paths,
    site_specs,
    token_specs,
)
from strata_sae.stores.format.encodings import CODECS, COMPRESSORS
from strata_sae.stores.format.shard_records import is_file_record

_FORMAT = "strata plan"
_KEYS = frozenset(
    [
        "format",
        "version",
        "n_rows",
        "n_documents",
        "splits",
        "sites",
        "encoding",
        "compressor",
        "rows_per_chunk",
        "rows_per_unit",
        "files",
        "config",
        "provenance",
    ]
)
_OPTIONAL = frozenset(["lineage", "calibration"])
_LINEAGE = {"kind": str, "store_id": str, "plan_id": str, "order_id": str, "rows": list}
KINDS = ("slice", "sibling", "shuffle")
MAX_ROWS = 2**48
MAX_SPANS = 4096
MAX_CHUNK_BYTES = 2**30
MAX_UNITS = 2**19  # a MANIFEST that lists them still fits into a store's JSON
MAX_SITES = 4096
MAX_WIDTHS = 800_000  # of all sites together: a commit record holds four numbers of each column, in 64 MiB
_COLUMN_BYTES, _CHUNK_BYTES = 80, 8  # of a commit record: four numbers of a column, the checksum of a chunk
MAX_SPLITS = 1024


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
    files: dict[str, dict[str, Any]]
    """Files written by the plan step: path -> record (`stores.shard_records`)."""
    config: dict[str, Any]
    provenance: dict[str, Any]
    lineage: dict[str, Any] | None = None
    """Where a derived store comes from: {kind, store_id, plan_id, order_id, rows}. None: from a model."""
    calibration: dict[str, Any] | None = None
    """int8 only: {"rows": [[start, stop], ...]}, the rows whose columns the quantisation is calibrated on."""
    version: int = VERSION
    """Of the format of the whole store."""

    @cached_property
    def data(self) -> bytes:
        """The bytes of plan.json."""
        fields = {name: getattr(self, name) for name in _KEYS - {"format", "version"}}
        fields |= {name: value for name in _OPTIONAL if (value := getattr(self, name)) is not None}
        return canonical_json({"format": _FORMAT, "version": self.version, **fields})

    @cached_property
    def id(self) -> str:
        """sha256 of plan.json."""
        return sha256(self.data)

    @property
    def order_id(self) -> str:
        """Names the order of batches: its own id, or that of the store whose very rows it holds."""
        return str(self.lineage["order_id"]) if self.lineage and self.lineage["order_id"] else self.id

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


def read_plan(store: Path) -> Plan:
    """The plan of a store. Raises: StoreError if there is none, or it is damaged or not allowed."""
    path = store / PLAN
    try:
        data = read_plain(path)
    except (FileNotFoundError, StoreError) as error:
        raise StoreError(f"{store}: not an activation store ({error})") from None
    return parse_plan(data, path)


def parse_plan(data: bytes, where: Path | str) -> Plan:
    """A plan from the bytes of plan.json, every field checked before anything is made of it."""
    value = parse_canonical(data, where)
    version = value.get("version")
    if value.get("format") != _FORMAT or type(version) is not int or version not in VERSIONS:
        raise StoreError(
            f"{where}: format {value.get('format')!r} version {version!r}; "
            f"this program reads {_FORMAT!r} versions {' and '.join(map(str, VERSIONS))}"
        )
    if not _KEYS <= set(value) <= _KEYS | _OPTIONAL:
        odd = sorted(_KEYS - set(value) | set(value) - _KEYS - _OPTIONAL)
        raise StoreError(f"{where}: keys {odd} are missing or unknown")
    del value["format"]
    try:
        splits = {str(name): (int(start), int(stop)) for name, (start, stop) in value.pop("splits").items()}
        plan = Plan(splits=splits, **value)
        check_limits(plan)
        _check_files(plan)
        if plan.data != data:
            raise ValueError("a number is written in another form")
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise StoreError(f"{where}: a field is not what a plan may hold ({error})") from None
    return plan


def check_limits(plan: Plan) -> None:
    """Everything of a plan but its files. Raises: ValueError saying what no store may have."""
    counts = (plan.n_rows, plan.n_documents, plan.rows_per_chunk, plan.rows_per_unit, *plan.sites.values())
    if not all(type(count) is int and 0 < count <= MAX_ROWS for count in counts):
        raise ValueError(f"a count is not an integer from 1 to {MAX_ROWS}")
    if plan.encoding not in CODECS or plan.compressor not in COMPRESSORS:
        raise ValueError(f"encoding {plan.encoding!r} or compressor {plan.compressor!r} is unknown")
    if plan.compressor == "planes" and plan.encoding != "bfloat16":
        raise ValueError(f"compressor 'planes' splits bfloat16, not {plan.encoding}")
    if len(plan.sites) > MAX_SITES or sum(plan.sites.values()) > MAX_WIDTHS:
        raise ValueError(f"more than {MAX_SITES} sites, or than {MAX_WIDTHS} columns of all sites together")
    for name in plan.sites:
        if not SITE_NAME.fullmatch(name) or set(name) == {"."}:
            raise ValueError(f"site name {name[:40]!r} is not allowed: letters, digits, '_', '.', '-', at most 128")
    _check_optional(plan)
    if plan.rows_per_unit % plan.rows_per_chunk:
        raise ValueError("rows_per_unit is not a multiple of rows_per_chunk")
    if plan.n_units > MAX_UNITS:
        raise ValueError(f"{plan.n_units} units, more than the {MAX_UNITS} a store may have")
    if not all(isinstance(value, dict) for value in (plan.files, plan.config, plan.provenance)):
        raise ValueError("files, config or provenance is not the object it must be")
    if max(plan.sites.values()) * 4 * plan.rows_per_chunk > MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk would exceed {MAX_CHUNK_BYTES} bytes")
    if len(plan.splits) > MAX_SPLITS or not all(SITE_NAME.fullmatch(name) for name in plan.splits):
        raise ValueError(f"more than {MAX_SPLITS} splits, or a name of one that is not allowed")
    position = 0
    for start, stop in sorted(plan.splits.values()):
        if start != position or stop < start:
            raise ValueError("the splits do not cover the rows exactly once")
        position = stop
    if position != plan.n_rows:
        raise ValueError("the splits do not cover the rows exactly once")
    described = _COLUMN_BYTES * sum(plan.sites.values())
    described += _CHUNK_BYTES * sum(s.chunks_per_shard for site in plan.site_specs.values() for s in site.values())
    if plan.version > 1 and described > MAX_JSON_BYTES:
        raise ValueError(f"a commit record would exceed {MAX_JSON_BYTES} bytes: too many sites, or chunks of a unit")


def _check_files(plan: Plan) -> None:
    specs = list(plan.token_specs.values())
    extras = {path for path in plan.files if plan.version > 1 and path.startswith(f"{EXTRAS}/")}
    if not all(EXTRA_NAME.fullmatch(path.removeprefix(f"{EXTRAS}/")) for path in extras):
        raise ValueError(f"a name in {EXTRAS} is not allowed: letters, digits, '_', '.', '-', at most 128")
    extras |= {plan.vocabulary_file}
    if len(plan.files) != len(extras) + sum(spec.n_shards for spec in specs):
        raise ValueError("the token map's files are not those of this many rows")
    shards = {spec.shard_path(shard): spec.shard_chunks(shard) for spec in specs for shard in range(spec.n_shards)}
    if set(plan.files) != extras | set(shards):
        raise ValueError("the token map's files are not those of this many rows")
    chunks = shards if plan.version > 1 else {}
    if wrong := [path for path, record in plan.files.items() if not is_file_record(record, chunks.get(path))]:
        raise ValueError(f"what is said of {wrong[0][:80]!a} is not what a record of a file holds")


def _check_optional(plan: Plan) -> None:
    if (plan.calibration is not None) != (plan.encoding == "int8"):
        raise ValueError("calibration belongs to int8, and to int8 alone")
    if plan.calibration is not None:
        spans = plan.calibration["rows"]
        inside = all(_is_rows(span) and span[0] < span[1] <= plan.n_rows for span in spans)
        if set(plan.calibration) != {"rows"} or not 0 < len(spans) <= MAX_SPANS or not inside:
            raise ValueError("calibration is not a list of row ranges of this plan")
    if plan.lineage is not None:
        types = {key: type(value) for key, value in plan.lineage.items()}
        if types != _LINEAGE or plan.lineage["kind"] not in KINDS or not _is_rows(plan.lineage["rows"]):
            raise ValueError("lineage is not the object it must be")


def _is_rows(span: Any) -> bool:
    numbers = isinstance(span, list) and all(type(row) is int and 0 <= row <= MAX_ROWS for row in span)
    return numbers and len(span) == 2
