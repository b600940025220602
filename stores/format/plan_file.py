"""Reading plan.json: every field is checked against what a store may have before anything is made of it."""

from dataclasses import fields
from pathlib import Path

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import (
    MAX_JSON_BYTES,
    Json,
    as_int,
    as_list,
    as_object,
    as_text,
    parse_canonical,
    read_plain,
)
from strata_sae.stores.format.encodings import CODECS, COMPRESSORS
from strata_sae.stores.format.plan import EXTRA_NAME, EXTRAS, FORMAT, PLAN, SITE_NAME, VERSIONS, Plan
from strata_sae.stores.format.records import KINDS, MAX_ROWS, parse_file_record, parse_lineage, parse_rows

_OPTIONAL = {"lineage", "calibration"}
_KEYS = {field.name for field in fields(Plan)} - _OPTIONAL | {"format"}
MAX_SPANS = 4096
MAX_CHUNK_BYTES = 2**30
MAX_UNITS = 2**19  # a MANIFEST that lists them still fits into a store's JSON
MAX_SITES = 4096
MAX_WIDTHS = 800_000  # of all sites together: a commit record holds four numbers of each column, in 64 MiB
_COLUMN_BYTES, _CHUNK_BYTES = 80, 8  # of a commit record: four numbers of a column, the checksum of a chunk
MAX_SPLITS = 1024


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
    if value.get("format") != FORMAT or type(version) is not int or version not in VERSIONS:
        raise StoreError(
            f"{where}: format {value.get('format')!r} version {version!r}; "
            f"this program reads {FORMAT!r} versions {' and '.join(map(str, VERSIONS))}"
        )
    if not _KEYS <= set(value) <= _KEYS | _OPTIONAL:
        odd = sorted(_KEYS - set(value) | set(value) - _KEYS - _OPTIONAL)
        raise StoreError(f"{where}: keys {odd} are missing or unknown")
    try:
        plan = _plan_of(value)
        check_limits(plan)
        _check_files(plan)
        if plan.data != data:
            raise ValueError("a number is written in another form")
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise StoreError(f"{where}: a field is not what a plan may hold ({error})") from None
    return plan


def _plan_of(value: dict[str, Json]) -> Plan:
    """Raises: KeyError, ValueError at a field of another type than it has in a plan."""
    calibration = as_object(value["calibration"]) if "calibration" in value else None
    if calibration is not None and set(calibration) != {"rows"}:
        raise ValueError("calibration is not a list of row ranges")
    return Plan(
        n_rows=as_int(value["n_rows"]),
        n_documents=as_int(value["n_documents"]),
        splits={name: parse_rows(rows) for name, rows in as_object(value["splits"]).items()},
        sites={name: as_int(width) for name, width in as_object(value["sites"]).items()},
        encoding=as_text(value["encoding"]),
        compressor=as_text(value["compressor"]),
        rows_per_chunk=as_int(value["rows_per_chunk"]),
        rows_per_unit=as_int(value["rows_per_unit"]),
        files={path: parse_file_record(path, record) for path, record in as_object(value["files"]).items()},
        config=as_object(value["config"]),
        provenance=as_object(value["provenance"]),
        lineage=parse_lineage(value["lineage"]) if "lineage" in value else None,
        calibration=None if calibration is None else [parse_rows(rows) for rows in as_list(calibration["rows"])],
        version=as_int(value["version"]),
    )


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
    if wrong := [path for path, file in plan.files.items() if not file.has_checksums_of(chunks.get(path))]:
        raise ValueError(f"what is said of {wrong[0][:80]!a} is not what a record of a file holds")


def _check_optional(plan: Plan) -> None:
    if (plan.calibration is not None) != (plan.encoding == "int8"):
        raise ValueError("calibration belongs to int8, and to int8 alone")
    if plan.calibration is not None:
        inside = all(start < stop <= plan.n_rows for start, stop in plan.calibration)
        if not 0 < len(plan.calibration) <= MAX_SPANS or not inside:
            raise ValueError("calibration is not a list of row ranges of this plan")
    if plan.lineage is not None and plan.lineage.kind not in KINDS:
        raise ValueError(f"lineage is not one of {', '.join(KINDS)}")
