"""Commit records: which units and columns of a store exist, and what their files are."""

import os
from pathlib import Path
from typing import Any

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import canonical_json, parse_canonical, read_plain, sha256
from strata_sae.stores.format.arrays import COMMITS, COMMITS_PER_FOLDER, ArraySpec
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.shard_records import is_file_record

COMMIT_FORMAT = "strata commit"


CALIBRATION = "calibration"
"""Names the commit that an int8 store begins with: its columns."""


def key_name(key: int | str) -> str:
    """How files name a unit or the calibration."""
    return f"{key:06d}" if isinstance(key, int) else key


def keys(plan: Plan) -> list[int | str]:
    """All that is committed in a finished store: its calibration, if it has one, and its units."""
    return [*([CALIBRATION] if plan.column_specs else []), *range(plan.n_units)]


def commit_folders(plan: Plan) -> list[str]:
    """The folders that commit records lie in, relative to the store."""
    n_folders = -(-plan.n_units // COMMITS_PER_FOLDER) if plan.version > 1 else 0
    return [COMMITS, *(f"{COMMITS}/{folder:03d}" for folder in range(n_folders))]


def commit_name(plan: Plan, key: int | str) -> str:
    """Path of the commit record of a unit, or of the calibration, within its store."""
    folder = f"/{key // COMMITS_PER_FOLDER:03d}" if plan.version > 1 and isinstance(key, int) else ""
    return f"{COMMITS}{folder}/{key_name(key)}.json"


def commit_path(store: Path, plan: Plan, key: int | str) -> Path:
    """Where that record lies."""
    return store / commit_name(plan, key)


def committed_units(store: Path, plan: Plan) -> set[int]:
    """The units that have a commit record, by the names that are there."""
    stems = (Path(name).stem for folder in commit_folders(plan) for name in os.listdir(store / folder))
    return {int(stem) for stem in stems if stem.isdecimal() and len(stem) == 6 and int(stem) < plan.n_units}


def shard_of(key: int | str) -> int:
    """The shard of every array that a commit writes."""
    return key if isinstance(key, int) else 0


def rows_of(plan: Plan, key: int | str) -> list[int]:
    """The rows a commit holds: [first, past the last]."""
    return list(plan.unit_rows(key)) if isinstance(key, int) else [0, 0]


def specs_of(plan: Plan, key: int | str) -> dict[str, dict[str, ArraySpec]]:
    """The arrays a commit writes to, by site and name."""
    return plan.site_specs if isinstance(key, int) else plan.column_specs


def read_commit(store: Path, plan: Plan, key: int | str) -> dict[str, Any] | None:
    """The commit record of a unit or of the calibration, or None if it is not committed.

    Raises: StoreError if the record is damaged or belongs to another plan or unit.
    """
    path = commit_path(store, plan, key)
    try:
        data = read_plain(path)
    except FileNotFoundError:
        return None
    record = parse_commit(data, path, plan, key)
    if record.pop("sha256", None) != sha256(canonical_json(record)):
        raise StoreError(f"{path}: its own checksum differs; the record is damaged, fetch it again")
    return record


def parse_commit(data: bytes, path: Path, plan: Plan, key: int | str) -> dict[str, Any]:
    """A commit record from bytes whose own checksum need not be looked at, because the MANIFEST's hash is theirs.

    Raises: StoreError if it is the record of another plan or unit, or not one at all.
    """
    record = parse_canonical(data, path)
    shard = shard_of(key)
    specs = [spec for site in specs_of(plan, key).values() for spec in site.values()]
    chunks = {spec.shard_path(shard): spec.shard_chunks(shard) if plan.version > 1 else None for spec in specs}
    described = set(plan.sites) if isinstance(key, int) else set()
    expected = (COMMIT_FORMAT, plan.id, key, rows_of(plan, key), set(chunks), described)
    found = tuple(record.get(key) for key in ("format", "plan_id", "unit", "rows"))
    files, statistics = record.get("files"), record.get("statistics")
    if not isinstance(files, dict) or not isinstance(statistics, dict):
        raise StoreError(f"{path}: its files or statistics are not what a commit record holds")
    if (*found, set(files), set(statistics)) != expected:
        raise StoreError(f"{path}: it is the record of another plan or unit")
    if not all(is_file_record(files[name], n_chunks) for name, n_chunks in chunks.items()):
        raise StoreError(f"{path}: its files are not what a commit record holds")
    return record
