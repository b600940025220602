"""Is a store what its MANIFEST says? What opening checks: its small files, and the size of every other."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.canonical import Json, read_plain
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.files.places import Identity, identity_of
from strata_sae.stores.format.commits import commits, read_listed, read_manifest, statistics_name
from strata_sae.stores.format.plan import COMMITS, MANIFEST, PLAN, STAGING, TIMINGS, Plan
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.format.shards import ArraySpec, largest_shard_bytes, shard_bytes
from strata_sae.stores.reading.array import ChunkRecords, NormRecords, ShardRecords, shard_records

_SHOWN = 5


class Contents(NamedTuple):
    """What a finished store holds."""

    store_id: str
    hashes: dict[str, str]
    """sha256 of every commit record and statistics file by path, from the MANIFEST."""
    files: dict[str, FileRecord]
    """Every data file by path."""
    arrays: dict[str, ShardRecords]
    """What every array's shards must be, by the array's path."""


def read_contents(store: Path, plan: Plan) -> Contents:
    """What a finished store's own small files say is in it, each hashed as it is read: MANIFEST, commits.

    Raises: StoreError if the store is unfinished, or one of these files is not what it must be.
    """
    store_id, hashes = read_manifest(store, plan)
    files = dict(plan.files)
    arrays: dict[str, ShardRecords] = {
        spec.path: shard_records(plan.version, spec, plan.files) for spec in plan.token_specs.values()
    }
    for specs in plan.site_specs.values():
        arrays |= _unit_records(plan, specs)
    for key, record in commits(store, plan, hashes):
        files |= record.files
        if not isinstance(key, int):
            columns = [spec for specs in plan.column_specs.values() for spec in specs.values()]
            arrays |= {spec.path: shard_records(plan.version, spec, record.files) for spec in columns}
            continue
        for site, specs in plan.site_specs.items():
            for spec in specs.values():
                _add(arrays[spec.path], record.files[spec.shard_path(key)], record.statistics[site], store, key)
    return Contents(store_id, hashes, files, arrays)


def _unit_records(plan: Plan, specs: dict[str, ArraySpec]) -> dict[str, ShardRecords]:
    """What is to be filled with the records of a site's units, by the array's path."""
    if plan.version > 1:
        return {spec.path: ChunkRecords() for spec in specs.values()}
    return {spec.path: NormRecords(spec) if name == "norm" else ShardRecords() for name, spec in specs.items()}


def _add(records: ShardRecords, file: FileRecord, statistics: Json, store: Path, unit: int) -> None:
    if isinstance(records, ChunkRecords):
        records.add(file)
    if isinstance(records, NormRecords):
        try:
            records.add(statistics)
        except (KeyError, ValueError):
            raise StoreError(f"{store}: the statistics of unit {unit} are not what a commit record holds") from None


def check_opened(store: Path, plan: Plan, seen: dict[str, Identity] | None = None) -> Contents:
    """What opening checks: manifest, commit records, statistics, metadata, and the size of every file.

    `seen`: receives the identity of every file, with which files that are opened later are compared.

    Raises: StoreError listing what is missing, extra, empty, truncated or not a plain file.
    """
    contents = read_contents(store, plan)
    check_sizes(store, plan, contents.files)
    metadata = plan.metadata_files()
    sizes: dict[str, int | None] = {PLAN: len(plan.data), MANIFEST: None, **dict.fromkeys(contents.hashes)}
    sizes |= {name: len(data) for name, data in metadata.items()}
    sizes |= {name: file.n_bytes for name, file in contents.files.items()}
    try:
        found = dict(_walk(store, ".", _folders_of(sizes) | {TIMINGS}))
    except OSError as error:
        raise StoreError(f"{error.filename or store}: cannot be looked at ({explain(error)})") from None
    problems = list(_compare(sizes, found))
    if not problems:
        for site in plan.sites:
            read_listed(store, statistics_name(site), contents.hashes[statistics_name(site)])
        wrong = [name for name, data in metadata.items() if read_plain(store / name) != data]
        problems = [f"{name}: is not the metadata of this plan; fetch the file again" for name in wrong]
    if problems:
        rest = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise StoreError(f"{store}: " + "\n  ".join(problems[:_SHOWN]) + rest)
    if _manifest_hash(store) != contents.store_id:  # all that was looked at lies between these two readings
        raise StoreError(f"{store}: was replaced while it was opened; run the command again")
    if seen is not None:
        seen |= {name: identity for name, identity in found.items() if identity is not None}
    return contents


def _manifest_hash(store: Path) -> str:
    try:
        return sha256(read_plain(store / MANIFEST))
    except FileNotFoundError:
        return ""


def check_sizes(store: Path, plan: Plan, files: dict[str, FileRecord]) -> None:
    """Bound the sizes that a plan and its commits record by what their rows can take.

    Raises: StoreError naming the first file that is recorded larger, or smaller, than its rows allow.
    """
    for spec in plan.arrays():
        for shard in range(spec.n_shards):
            recorded, needed = files[spec.shard_path(shard)].n_bytes, shard_bytes(spec, shard)
            if recorded > largest_shard_bytes(spec, shard) or (recorded < needed and spec.compressor == "none"):
                raise StoreError(
                    f"{store}: {spec.shard_path(shard)} is said to have {recorded} bytes; its rows take {needed}"
                )


def _compare(sizes: dict[str, int | None], found: dict[str, Identity | None]) -> Iterator[str]:
    for name in sorted(set(sizes) - set(found)):
        yield f"{name}: missing; fetch the file again"
    timed = {f"{TIMINGS}/{Path(name).name}" for name in sizes if name.startswith(f"{COMMITS}/")}
    for name, identity in sorted(found.items()):
        shown = name if name.isprintable() else ascii(name)  # a name can hold what a terminal obeys
        if identity is None:
            yield f"{shown}: neither a plain file nor a folder; a store holds no links"
        elif name not in sizes:
            if name not in timed:
                yield f"{shown}: does not belong to this store; remove it"
        elif sizes[name] not in (None, identity.n_bytes):
            yield f"{name}: {identity.n_bytes} bytes instead of {sizes[name]}; fetch the file again"


def _folders_of(names: Iterable[str]) -> set[str]:
    """Every folder on the way to a file, by path; plain text, because a store may have a million files."""
    folders = {"."}
    fresh = {name.rpartition("/")[0] for name in names} - {""}
    while fresh:
        folders |= fresh
        fresh = {folder.rpartition("/")[0] for folder in fresh} - folders - {""}
    return folders


def _walk(store: Path, folder: str, expected: set[str]) -> Iterator[tuple[str, Identity | None]]:
    """Files and unexpected folders, but what is being staged, with their identities; None where it is neither."""
    with os.scandir(store / folder) as entries:
        for entry in entries:
            name = entry.name if folder == "." else f"{folder}/{entry.name}"
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                yield name, None
            elif entry.is_file():
                yield name, identity_of(entry.stat())
            elif name in expected:
                yield from _walk(store, name, expected)
            elif name != STAGING:  # a folder that belongs to no store: what lies in it does not matter
                yield name, identity_of(entry.stat())
