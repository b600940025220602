"""MANIFEST.json makes a codes store finished: it lists every file with its hash, and its own hash is the codes' id."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.stores.codes.layout import SEGMENTS, TABLE, SegmentRecord, read_record, segment_files
from strata_sae.stores.codes.plan import CODES, FORMAT, VERSION, CodesPlan
from strata_sae.stores.codes.table import largest_table, table_bytes
from strata_sae.stores.codes.writing import draft, finishing_claim, missing_segments, remove_leftovers
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import (
    Json,
    as_int,
    as_list,
    as_object,
    canonical_json,
    parse_canonical,
    read_plain,
)
from strata_sae.stores.files.filesystem import FileSystem, naming, publish_exclusive, write_new
from strata_sae.stores.files.hashing import file_sha256, sha256
from strata_sae.stores.format.plan import MANIFEST, STAGING
from strata_sae.stores.format.records import FileRecord, files_json, parse_file_record

_LOOK_SECONDS = 0.2
"""Between two looks whether the process that finishes the codes store is done."""


class Manifest(NamedTuple):
    """MANIFEST.json."""

    id: str
    """sha256 of its bytes."""
    n_pairs: list[int]
    """Of each segment."""
    files: dict[str, FileRecord]
    """Every other file, by its path."""


def finish_codes(
    folder: Path,
    plan: CodesPlan,
    table: Mapping[str, np.ndarray],
    *,
    files: FileSystem | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Write the table of the latents and MANIFEST.json; a finished codes store stays as it is.

    Of all processes that call this at once, one does it, and the others wait.

    Args:
        table: name -> array whose first axis is [d_sae].
        wait: is called with seconds while another process is at it.
    Raises: StoreError if a segment is missing, the folder is of another plan, or the table is none; OSError.

    """
    files = files or FileSystem()
    data = table_bytes(table, plan.d_sae)
    while not (folder / MANIFEST).exists():
        files.make_folder(folder / STAGING)
        held = finishing_claim(folder)
        if held is None:
            wait(_LOOK_SECONDS)
            continue
        with held:
            if not (folder / MANIFEST).exists():
                _finish(files, folder, plan, data)
    read_manifest(folder, plan)
    files.sync_folder(folder)


def _finish(files: FileSystem, folder: Path, plan: CodesPlan, table: bytes) -> None:
    if missing := missing_segments(folder, plan):
        raise StoreError(
            f"{folder}: {len(missing)} of {plan.n_segments} segments are missing; run strata codes again to make them"
        )
    remove_leftovers(files, folder)
    n_pairs, listed = [], {CODES: FileRecord(CODES, len(plan.data), sha256(plan.data))}
    for segment in range(plan.n_segments):
        record = read_record(folder, plan, segment)
        assert record is not None, "no segment is missing"
        n_pairs.append(record.n_pairs)
        listed |= _segment_files(folder, plan, segment, record)
    files.sync_folder(folder / SEGMENTS)
    listed[TABLE] = FileRecord(TABLE, len(table), sha256(table))
    with naming(folder / MANIFEST), draft(files, folder) as drafts:
        write_new(files, drafts / TABLE, table)
        files.rename(drafts / TABLE, folder / TABLE)
        files.sync_folder(folder)
        publish_exclusive(files, drafts / MANIFEST, folder / MANIFEST, manifest_json(plan, n_pairs, listed))


def _segment_files(folder: Path, plan: CodesPlan, segment: int, record: SegmentRecord) -> dict[str, FileRecord]:
    """What the MANIFEST says of a segment's files; their sizes are looked at, their bytes were before they appeared."""
    listed = {}
    for path in segment_files(plan, segment, record.n_pairs):
        n_bytes = (folder / path).stat().st_size
        known = record.files.get(path)
        if known is not None and known.n_bytes != n_bytes:
            raise StoreError(f"{folder / path}: {n_bytes} bytes instead of {known.n_bytes}; make the codes again")
        listed[path] = FileRecord(path, n_bytes, known.sha256 if known else file_sha256(folder / path))
    return listed


def manifest_of_segments(folder: Path, plan: CodesPlan) -> Manifest:
    """What the MANIFEST will say of the segments. Raises: StoreError if one is missing, or damaged."""
    n_pairs, listed = [], {}
    for segment in range(plan.n_segments):
        record = read_record(folder, plan, segment)
        if record is None:
            raise StoreError(f"{folder}: segment {segment} is missing; run strata codes again to make it")
        n_pairs.append(record.n_pairs)
        listed |= _segment_files(folder, plan, segment, record)
    return Manifest("", n_pairs, listed)


def manifest_json(plan: CodesPlan, n_pairs: list[int], files: Mapping[str, FileRecord]) -> bytes:
    """The bytes of MANIFEST.json."""
    pairs: list[Json] = list(n_pairs)
    return canonical_json(
        {
            "format": FORMAT,
            "version": VERSION,
            "codes": plan.id,
            "store_ids": dict(plan.store_ids),
            "weights_sha256": plan.weights_sha256,
            "pairs": pairs,
            "files": files_json(dict(files)),
        }
    )


def read_manifest(folder: Path, plan: CodesPlan) -> Manifest:
    """The MANIFEST of a codes store. Raises: StoreError if it is unfinished, damaged or of another plan."""
    path = folder / MANIFEST
    try:
        data = read_plain(path)
    except FileNotFoundError:
        raise StoreError(f"{folder}: no finished codes store (no {MANIFEST}); run strata codes again") from None
    value = parse_canonical(data, path)
    try:
        n_pairs = [as_int(count) for count in as_list(value["pairs"])]
        files = {name: parse_file_record(name, file) for name, file in as_object(value["files"]).items()}
        if manifest_json(plan, n_pairs, files) != data:
            raise ValueError(f"it is not the one of {CODES}, or has other keys")
        if len(n_pairs) != plan.n_segments or min(n_pairs) < 0 or max(n_pairs) > plan.rows_per_segment * plan.d_sae:
            raise ValueError(f"it has not {plan.n_segments} segments")
        _check_files(plan, n_pairs, files)
    except (KeyError, ValueError) as error:
        raise StoreError(f"{path}: damaged, or of other codes ({error}); make the codes again") from None
    return Manifest(sha256(data), n_pairs, files)


def _check_files(plan: CodesPlan, n_pairs: list[int], files: dict[str, FileRecord]) -> None:
    """Raises: ValueError if other files are listed than the codes have, or one that is larger than it can be."""
    if len(files) < 2 + plan.n_segments:  # before a list of all is made
        raise ValueError("it does not list the files of its segments")
    listed = {CODES, TABLE, *(path for i, n in enumerate(n_pairs) for path in segment_files(plan, i, n))}
    if set(files) != listed:
        raise ValueError(f"it lists other files than the codes have, such as {min(listed ^ set(files))[:80]!a}")
    if files[TABLE].n_bytes > largest_table(plan.d_sae):
        raise ValueError(f"{TABLE} is too large")


def read_listed(folder: Path, path: str, listed: FileRecord) -> bytes:
    """The bytes of a small file of the MANIFEST. Raises: StoreError if it is missing, or is not that file."""
    try:
        data = read_plain(folder / path)
    except FileNotFoundError:
        raise StoreError(f"{folder / path}: missing; make the codes again") from None
    if sha256(data) != listed.sha256:
        raise StoreError(f"{folder / path}: its sha256 is not the one in {MANIFEST}; make the codes again")
    return data
