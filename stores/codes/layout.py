"""The files of a codes store: the arrays of a segment, as plain zarr opens them, and the record beside them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.codes.plan import CODES, FORMAT, VERSION, CodesPlan
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_int, as_object, canonical_json, parse_canonical, read_plain
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.plan import MANIFEST, STAGING
from strata_sae.stores.format.records import FileRecord, files_json, parse_file_record
from strata_sae.stores.format.shards import ArraySpec, index_bytes, largest_shard_bytes

SEGMENTS, TABLE, RECORD = "segments", "latents.safetensors", "record.json"
ENTRIES_PER_CHUNK = 65_536
"""The postings of one latent are read in 10 ms; of four times as many they would be in 20 ms, for 2 % of the bytes."""
ARRAYS = ("latent/offset", "latent/gap", "latent/value", "row/offset", "row/latent")
_SMALL_LATENTS = 2**16
"""Latents of an SAE that are written in two bytes each."""
_OURS = re.compile(
    rf"{re.escape(CODES)}|{MANIFEST}|{re.escape(TABLE)}|{SEGMENTS}/|{STAGING}/.*"
    rf"|{SEGMENTS}/\d{{4,}}\.zarr/({re.escape(RECORD)}|zarr\.json|((latent|row)/((offset|gap|value|latent)/)?(zarr\.json)?)"
    r"|(latent|row)/(offset|gap|value|latent)/c/0?)?",
    re.DOTALL,
)


def is_codes_path(path: str) -> bool:
    """Whether a path within a codes folder, with a slash at the end of a folder's, is one that a codes store makes."""
    return _OURS.fullmatch(path) is not None


def segment_path(segment: int) -> str:
    """Folder of a segment, relative to the codes."""
    return f"{SEGMENTS}/{segment:04d}.zarr"


def array_specs(plan: CodesPlan, segment: int, n_pairs: int) -> dict[str, ArraySpec]:
    """The arrays of a segment by name; each is one file, none where it has no entry."""
    start, stop = plan.segment_rows(segment)
    narrow = plan.d_sae <= _SMALL_LATENTS
    kinds = {
        "latent/offset": (plan.d_sae + 1, "<u8", "uint64"),
        "latent/gap": (n_pairs, "<u4", "uint32"),
        "latent/value": (n_pairs, "<f4", "float32"),
        "row/offset": (stop - start + 1, "<u8", "uint64"),
        "row/latent": (n_pairs, "<u2" if narrow else "<u4", "uint16" if narrow else "uint32"),
    }
    return {name: _spec(f"{segment_path(segment)}/{name}", *kinds[name]) for name in ARRAYS}


def _spec(path: str, n: int, dtype: str, zarr_type: str) -> ArraySpec:
    chunk = min(ENTRIES_PER_CHUNK, max(1, n))
    shard = max(1, -(-n // chunk)) * chunk
    return ArraySpec(path, (n,), dtype, zarr_type, 0, chunk, shard, "shuffled", {})


def metadata_files(plan: CodesPlan, segment: int, n_pairs: int) -> dict[str, bytes]:
    """Path -> bytes of every zarr.json of a segment, relative to the codes."""
    start, stop = plan.segment_rows(segment)
    told: dict[str, Json] = {"format": FORMAT, "version": VERSION, "rows": [start, stop]}
    groups: dict[str, dict[str, Json]] = {"": told, "/latent": {}, "/row": {}}
    files = {
        f"{segment_path(segment)}{name}/zarr.json": canonical_json(
            {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        )
        for name, attributes in groups.items()
    }
    specs = array_specs(plan, segment, n_pairs).values()
    return files | {f"{spec.path}/zarr.json": canonical_json(spec.zarr_json()) for spec in specs}


def segment_files(plan: CodesPlan, segment: int, n_pairs: int) -> Iterator[str]:
    """Paths of all files of a segment, relative to the codes."""
    for name in (RECORD, "zarr.json", "latent/zarr.json", "row/zarr.json", *(f"{name}/zarr.json" for name in ARRAYS)):
        yield f"{segment_path(segment)}/{name}"
    for spec in array_specs(plan, segment, n_pairs).values():
        yield from spec.shard_paths()


class SegmentRecord(NamedTuple):
    """record.json: what a segment holds."""

    n_pairs: int
    files: dict[str, FileRecord]
    """By path relative to the codes, the file of every array."""


def record_json(plan: CodesPlan, segment: int, record: SegmentRecord) -> bytes:
    """The bytes of a segment's record, which end with a checksum of their own."""
    body: dict[str, Json] = {
        "format": f"{FORMAT} segment",
        "codes": plan.id,
        "segment": segment,
        "pairs": record.n_pairs,
        "files": files_json(record.files),
    }
    return canonical_json(body | {"sha256": sha256(canonical_json(body))})


def read_record(folder: Path, plan: CodesPlan, segment: int) -> SegmentRecord | None:
    """The record of a segment; None where the segment is not there.

    Raises: StoreError if it is damaged, or that of another segment or other codes.
    """
    path = folder / segment_path(segment) / RECORD
    try:
        return parse_record(read_plain(path), path, plan, segment)
    except FileNotFoundError:
        return None


def parse_record(data: bytes, where: Path, plan: CodesPlan, segment: int) -> SegmentRecord:
    """A segment's record from its bytes, every size bounded by what its pairs can take. Raises: StoreError."""
    value = parse_canonical(data, where)
    try:
        start, stop = plan.segment_rows(segment)
        n_pairs = as_int(value["pairs"])
        if not 0 <= n_pairs <= (stop - start) * plan.d_sae:
            raise ValueError(f"{n_pairs} pairs")
        records = {name: parse_file_record(name, file) for name, file in as_object(value["files"]).items()}
        specs = array_specs(plan, segment, n_pairs).values()
        if set(records) != {name for spec in specs for name in spec.shard_paths()}:
            raise ValueError("it names other files than it must")
        for spec in specs:
            for shard, name in enumerate(spec.shard_paths()):
                least, most = index_bytes(spec), largest_shard_bytes(spec, shard)
                fits = least <= records[name].n_bytes <= most
                if not fits or not records[name].has_checksums_of(spec.shard_chunks(shard)):
                    raise ValueError(f"{name} is not what its pairs take")
        record = SegmentRecord(n_pairs, records)
        same = record_json(plan, segment, record) == data
    except (KeyError, ValueError) as error:
        raise StoreError(f"{where}: not the record of a segment ({error}); make the codes again") from None
    if not same:
        raise StoreError(f"{where}: damaged, or the record of another segment or other codes; make the codes again")
    return record
