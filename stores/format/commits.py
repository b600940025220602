"""Commit records, which say what units exist, and the MANIFEST, which says that all do; with what they say of files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_object, as_text, canonical_json, parse_canonical, read_plain
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.format.plan import COMMITS, COMMITS_PER_FOLDER, MANIFEST, PLAN, STATISTICS, Plan
from strata_sae.stores.format.records import FileRecord, files_json, parse_file_record
from strata_sae.stores.format.shards import ArraySpec

_COMMIT_FORMAT, _MANIFEST_FORMAT = "strata commit", "strata store"
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
    names = (name for folder in commit_folders(plan) for name in os.listdir(store / folder))
    numbers = (name[:6] for name in names if len(name) == 11 and name.endswith(".json"))
    return {int(number) for number in numbers if number.isdecimal() and int(number) < plan.n_units}


def shard_of(key: int | str) -> int:
    """The shard of every array that a commit writes."""
    return key if isinstance(key, int) else 0


def rows_of(plan: Plan, key: int | str) -> tuple[int, int]:
    """The rows [start, stop) that a commit holds."""
    return plan.unit_rows(key) if isinstance(key, int) else (0, 0)


def specs_of(plan: Plan, key: int | str) -> dict[str, dict[str, ArraySpec]]:
    """The arrays a commit writes to, by site and name."""
    return plan.site_specs if isinstance(key, int) else plan.column_specs


class CommitRecord(NamedTuple):
    """What is committed of a unit, or of the calibration."""

    files: dict[str, FileRecord]
    """By path, every shard file that it holds."""
    statistics: dict[str, Json]
    """By site, `statistics.Moments.record` of its rows; empty for the calibration."""


def commit_json(plan: Plan, key: int | str, record: CommitRecord) -> bytes:
    """The bytes of a commit record, which end with a checksum of their own."""
    body: dict[str, Json] = {
        "format": _COMMIT_FORMAT,
        "plan_id": plan.id,
        "unit": key,
        "rows": list(rows_of(plan, key)),
        "files": files_json(record.files),
        "statistics": record.statistics,
    }
    return canonical_json(body | {"sha256": sha256(canonical_json(body))})


def read_commit(store: Path, plan: Plan, key: int | str) -> CommitRecord | None:
    """The commit record of a unit or of the calibration, or None if it is not committed.

    Raises: StoreError if the record is damaged or belongs to another plan or unit.
    """
    path = commit_path(store, plan, key)
    try:
        value = parse_canonical(read_plain(path), path)
    except FileNotFoundError:
        return None
    record = _commit_of(value, path, plan, key)
    if value.pop("sha256", None) != sha256(canonical_json(value)):
        raise StoreError(f"{path}: its own checksum differs; the record is damaged, fetch it again")
    return record


def _commit_of(value: dict[str, Json], path: Path, plan: Plan, key: int | str) -> CommitRecord:
    """A commit record from its JSON. Raises: StoreError if it is that of another plan or unit, or not one at all."""
    shard = shard_of(key)
    specs = [spec for site in specs_of(plan, key).values() for spec in site.values()]
    chunks = {spec.shard_path(shard): spec.shard_chunks(shard) if plan.version > 1 else None for spec in specs}
    described = set(plan.sites) if isinstance(key, int) else set()
    try:
        files, statistics = as_object(value.get("files")), as_object(value.get("statistics"))
        named = tuple(value.get(name) for name in ("format", "plan_id", "unit", "rows"))
        expected = (_COMMIT_FORMAT, plan.id, key, list(rows_of(plan, key)), set(chunks), described)
        if (*named, set(files), set(statistics)) != expected:
            raise StoreError(f"{path}: it is the record of another plan or unit")
        records = {name: parse_file_record(name, file) for name, file in files.items()}
        if not all(records[name].has_checksums_of(n_chunks) for name, n_chunks in chunks.items()):
            raise ValueError("a file has other checksums of chunks than it must")
    except ValueError as error:
        raise StoreError(f"{path}: its files or statistics are not what a commit record holds ({error})") from None
    return CommitRecord(records, statistics)


def read_manifest(store: Path, plan: Plan) -> tuple[str, dict[str, str]]:
    """The store id, and the hashes of commit records and statistics by path.

    Raises: StoreError if the store is unfinished, or the MANIFEST is damaged or belongs to another plan.
    """
    path = store / MANIFEST
    try:
        data = read_plain(path)
    except FileNotFoundError:
        raise StoreError(
            f"{store}: unfinished (no {MANIFEST}), {_count(store, plan)} of {plan.n_units} units are there; "
            f"run extract again to fill the rest"
        ) from None
    value = parse_canonical(data, path)
    listed = {commit_name(plan, key) for key in keys(plan)} | {statistics_name(site) for site in plan.sites}
    named = {"format": _MANIFEST_FORMAT, "version": plan.version}
    if value != {**named, "plan_id": value.get("plan_id"), "files": value.get("files")} or value["version"] is True:
        raise StoreError(f"{path}: not a MANIFEST of version {plan.version}; the file is damaged, fetch it again")
    if value["plan_id"] != plan.id:
        raise StoreError(f"{path}: belongs to plan {value['plan_id']}, but {PLAN} is {plan.id}; one of them is damaged")
    try:
        hashes = {name: as_text(hash_) for name, hash_ in as_object(value["files"]).items()}
    except ValueError as error:
        raise StoreError(f"{path}: {error}; the file is damaged, fetch it again") from None
    if set(hashes) != listed:
        raise StoreError(f"{path}: does not list the files of this plan; the file is damaged, fetch it again")
    return sha256(data), hashes


def manifest_json(plan: Plan, hashes: dict[str, str]) -> bytes:
    """The bytes of the MANIFEST; `hashes`: sha256 of every commit record and statistics file by path."""
    return canonical_json(
        {"format": _MANIFEST_FORMAT, "version": plan.version, "plan_id": plan.id, "files": dict(hashes)}
    )


def statistics_name(site: str) -> str:
    """Path of a site's statistics within its store."""
    return f"{STATISTICS}/{site}.json"


def read_listed(store: Path, name: str, expected: str, by: str = MANIFEST) -> bytes:
    """The bytes of a small file whose sha256 is listed by the MANIFEST, or the plan.

    Raises: StoreError if it is missing, or is not that file.
    """
    try:
        data = read_plain(store / name)
    except FileNotFoundError:
        raise StoreError(f"{store / name}: missing; fetch the file again") from None
    if sha256(data) != expected:
        raise StoreError(f"{store / name}: its sha256 is not the one in {by}; fetch the file again")
    return data


def commits(store: Path, plan: Plan, hashes: dict[str, str]) -> Iterator[tuple[int | str, CommitRecord]]:
    """Every commit record by its unit, or `calibration`, in order; each is the MANIFEST's.

    Raises: StoreError as soon as one is not.
    """
    for key in keys(plan):
        path = store / commit_name(plan, key)
        # Its own checksum need not be looked at: the MANIFEST's hash is of these bytes.
        data = read_listed(store, commit_name(plan, key), hashes[commit_name(plan, key)])
        yield key, _commit_of(parse_canonical(data, path), path, plan, key)


def file_records(store: Path, plan: Plan, hashes: dict[str, str]) -> dict[str, FileRecord]:
    """What the plan and the commit records say of every data file, by path. Raises: StoreError as `commits`."""
    records = dict(plan.files)
    for _, record in commits(store, plan, hashes):
        records |= record.files
    return records


def _count(store: Path, plan: Plan) -> int:
    try:
        return len(committed_units(store, plan))
    except OSError:
        return 0
