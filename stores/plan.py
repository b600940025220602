"""The immutable plan of a store: what it will hold, fixed before the first forward pass."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stores.canonical import canonical_json, is_file_records, parse_canonical, read_plain, sha256
from stores.encodings import CODECS, COMPRESSORS
from stores.errors import StoreError
from stores.format import PLAN, VERSION, VOCABULARY, ArraySpec, group_json, group_paths, site_specs, token_specs

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
MAX_ROWS = 2**48
MAX_CHUNK_BYTES = 2**30
MAX_UNITS = 2**19  # a MANIFEST that lists them still fits into a store's JSON


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
    """Files written by the plan step: path -> {bytes, sha256}."""
    config: dict[str, Any]
    provenance: dict[str, Any]

    @cached_property
    def data(self) -> bytes:
        """The bytes of plan.json."""
        fields = {name: getattr(self, name) for name in _KEYS - {"format", "version"}}
        return canonical_json({"format": _FORMAT, "version": VERSION, **fields})

    @cached_property
    def id(self) -> str:
        """sha256 of plan.json."""
        return sha256(self.data)

    @property
    def n_units(self) -> int:
        """Units of work: shards of every site."""
        return -(-self.n_rows // self.rows_per_unit)

    def unit_rows(self, unit: int) -> tuple[int, int]:
        """Rows [start, stop) of a unit."""
        start = unit * self.rows_per_unit
        return start, min(start + self.rows_per_unit, self.n_rows)

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
        arrays = [*self.token_specs.values(), *(spec for site in self.site_specs.values() for spec in site.values())]
        return files | {f"{spec.path}/zarr.json": canonical_json(spec.zarr_json()) for spec in arrays}

    def unit_files(self, unit: int) -> list[str]:
        """Paths of the shard files of a unit."""
        return [spec.shard_path(unit) for site in self.site_specs.values() for spec in site.values()]

    def bytes_per_row(self, site: str) -> int:
        """Bytes of one row's values before compression."""
        return self.sites[site] * int(CODECS[self.encoding].dtype[-1])


def read_plan(store: Path) -> Plan:
    """The plan of a store. Raises: StoreError if there is none, or it is damaged or not allowed."""
    path = store / PLAN
    try:
        data = read_plain(path)
    except (FileNotFoundError, StoreError) as error:
        raise StoreError(f"{store}: not an activation store ({error})") from None
    return parse_plan(data, path)


def parse_plan(data: bytes, where: Path) -> Plan:
    """A plan from the bytes of plan.json, every field checked before anything is made of it."""
    value = parse_canonical(data, where)
    if value.get("format") != _FORMAT or value.get("version") != VERSION:
        raise StoreError(
            f"{where}: format {value.get('format')!r} version {value.get('version')!r}; "
            f"this program reads {_FORMAT!r} version {VERSION}"
        )
    if set(value) != _KEYS:
        raise StoreError(f"{where}: keys {sorted(set(value) ^ _KEYS)} are missing or unknown")
    del value["format"], value["version"]
    try:
        splits = {str(name): (int(start), int(stop)) for name, (start, stop) in value.pop("splits").items()}
        plan = Plan(splits=splits, **value)
        _check(plan)
        if plan.data != data:
            raise ValueError("a number is written in another form")
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise StoreError(f"{where}: a field is not what a plan may hold ({error})") from None
    return plan


def _check(plan: Plan) -> None:
    counts = (plan.n_rows, plan.n_documents, plan.rows_per_chunk, plan.rows_per_unit, *plan.sites.values())
    if not all(type(count) is int and 0 < count <= MAX_ROWS for count in counts):
        raise ValueError(f"a count is not an integer from 1 to {MAX_ROWS}")
    if plan.encoding not in CODECS or plan.compressor not in COMPRESSORS:
        raise ValueError(f"encoding {plan.encoding!r} or compressor {plan.compressor!r} is unknown")
    if plan.rows_per_unit % plan.rows_per_chunk:
        raise ValueError("rows_per_unit is not a multiple of rows_per_chunk")
    if plan.n_units > MAX_UNITS:
        raise ValueError(f"{plan.n_units} units, more than the {MAX_UNITS} a store may have")
    if not is_file_records(plan.files) or not isinstance(plan.config, dict) or not isinstance(plan.provenance, dict):
        raise ValueError("files, config or provenance is not the object it must be")
    if max(plan.sites.values()) * 4 * plan.rows_per_chunk > MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk would exceed {MAX_CHUNK_BYTES} bytes")
    position = 0
    for start, stop in sorted(plan.splits.values()):
        if start != position or stop < start:
            raise ValueError("the splits do not cover the rows exactly once")
        position = stop
    if position != plan.n_rows:
        raise ValueError("the splits do not cover the rows exactly once")
    shards = [(spec, spec.n_shards) for spec in plan.token_specs.values()]
    if len(plan.files) != 1 + sum(n_shards for _, n_shards in shards):
        raise ValueError("the token map's files are not those of this many rows")
    expected = {spec.shard_path(shard) for spec, n_shards in shards for shard in range(n_shards)}
    if set(plan.files) != expected | {VOCABULARY}:
        raise ValueError("the token map's files are not those of this many rows")
    assert plan.site_specs is not None  # builds, and so checks, every site name
