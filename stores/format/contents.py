"""What a finished store's own small files say is in it, each hashed as it is read: MANIFEST, commits, statistics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import parse_canonical, read_plain, sha256
from strata_sae.stores.format.arrays import MANIFEST, PLAN, STATISTICS, ArraySpec
from strata_sae.stores.format.commits import commit_name, committed_units, keys, parse_commit
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.shard_records import ChunkRecords, NoRecords, NormRecords, ShardRecords, shard_records

FORMAT = "strata store"


class Contents(NamedTuple):
    """What a finished store holds."""

    store_id: str
    hashes: dict[str, str]
    """sha256 of every commit record and statistics file by path, from the MANIFEST."""
    sizes: dict[str, int]
    """Bytes of every data file by path."""
    arrays: dict[str, ShardRecords]
    """What every array's shards must be, by the array's path."""


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
    expected = {"format": FORMAT, "version": plan.version, "plan_id": value.get("plan_id"), "files": value.get("files")}
    if value != expected or type(value["version"]) is not int:
        raise StoreError(f"{path}: not a MANIFEST of version {plan.version}; the file is damaged, fetch it again")
    if value["plan_id"] != plan.id:
        raise StoreError(f"{path}: belongs to plan {value['plan_id']}, but {PLAN} is {plan.id}; one of them is damaged")
    if not isinstance(value["files"], dict) or set(value["files"]) != listed:
        raise StoreError(f"{path}: does not list the files of this plan; the file is damaged, fetch it again")
    return sha256(data), value["files"]


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


def commits(store: Path, plan: Plan, hashes: dict[str, str]) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """Every commit record by its unit, or `calibration`, in order; each is the MANIFEST's.

    Raises: StoreError as soon as one is not.
    """
    for key in keys(plan):
        name = commit_name(plan, key)
        yield key, parse_commit(read_listed(store, name, hashes[name]), store / name, plan, key)


def all_files(store: Path, plan: Plan, hashes: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What the plan and the commit records say of every data file, by path: at least {bytes, sha256}.

    Raises: StoreError as `commits`.
    """
    records = dict(plan.files)
    for _, record in commits(store, plan, hashes):
        records |= record["files"]
    return records


def read_contents(store: Path, plan: Plan) -> Contents:
    """All of it. Raises: StoreError if the store is unfinished, or one of these files is not what it must be."""
    store_id, hashes = read_manifest(store, plan)
    sizes = {name: int(record["bytes"]) for name, record in plan.files.items()}
    arrays: dict[str, ShardRecords] = {
        spec.path: shard_records(plan.version, spec, plan.files) for spec in plan.token_specs.values()
    }
    for specs in plan.site_specs.values():
        arrays |= _unit_records(plan, specs)
    for key, record in commits(store, plan, hashes):
        files = record["files"]
        sizes |= {name: int(entry["bytes"]) for name, entry in files.items()}
        if not isinstance(key, int):
            columns = [spec for specs in plan.column_specs.values() for spec in specs.values()]
            arrays |= {spec.path: shard_records(plan.version, spec, files) for spec in columns}
            continue
        for site, specs in plan.site_specs.items():
            for spec in specs.values():
                _add(arrays[spec.path], files[spec.shard_path(key)], record["statistics"][site], store, key)
    return Contents(store_id, hashes, sizes, arrays)


def _unit_records(plan: Plan, specs: dict[str, ArraySpec]) -> dict[str, ShardRecords]:
    """What is to be filled with the records of a site's units, by the array's path."""
    if plan.version > 1:
        return {spec.path: ChunkRecords() for spec in specs.values()}
    return {spec.path: NormRecords(spec) if name == "norm" else NoRecords() for name, spec in specs.items()}


def _add(records: ShardRecords, file: dict[str, Any], statistics: Any, store: Path, unit: int) -> None:
    if isinstance(records, ChunkRecords):
        records.add(file)
    if isinstance(records, NormRecords):
        try:
            records.add(statistics)
        except (KeyError, TypeError, ValueError):
            raise StoreError(f"{store}: the statistics of unit {unit} are not what a commit record holds") from None


def _count(store: Path, plan: Plan) -> int:
    try:
        return len(committed_units(store, plan))
    except OSError:
        return 0
