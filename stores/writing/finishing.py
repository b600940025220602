"""Recovery after any interruption, the MANIFEST that makes a store finished, and how long its units took."""

import os
import stat
import uuid
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_int, as_number, canonical_json, read_canonical
from strata_sae.stores.files.filesystem import FileSystem, publish_exclusive, write_new
from strata_sae.stores.files.hashing import file_sha256, sha256
from strata_sae.stores.files.locks import Lease, abandoned, leased, planning_prefix, remove_abandoned, seized
from strata_sae.stores.format.commits import (
    commit_folders,
    commit_name,
    commit_path,
    key_name,
    keys,
    manifest_json,
    read_commit,
    statistics_name,
)
from strata_sae.stores.format.plan import MANIFEST, STAGING, STATISTICS, TIMINGS, Plan
from strata_sae.stores.format.statistics import merge
from strata_sae.stores.writing.units import publish

_MAX_TIMING = 2**53
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def recover(files: FileSystem, store: Path, plan: Plan) -> list[int]:
    """Roll every committed unit forward and remove what dead workers left. Idempotent. Returns: the missing units."""
    # Listed first: the files of a worker that commits and dies after this line are kept for the next recovery.
    dead = seized(files, abandoned(store / STAGING, "") + abandoned(store.parent, planning_prefix(store)))
    for folder in commit_folders(plan):  # a record is durable before its files move, also that of a process that died
        files.sync_folder(store / folder)
    missing = []
    for key in keys(plan):
        if read_commit(store, plan, key) is not None:
            publish(files, store, plan, key)
        elif isinstance(key, int):
            missing.append(key)
    remove_abandoned(files, dead)
    return missing


def next_unit(store: Path, plan: Plan, skip: set[int]) -> int | None:
    """A missing unit, if possible one that no live worker is filling; None when all are committed."""
    missing = [unit for unit in range(plan.n_units) if unit not in skip and not commit_path(store, plan, unit).exists()]
    busy = {name.partition("-")[0] for name in leased(store / STAGING, "")} if missing else set()
    return next((unit for unit in missing if key_name(unit) not in busy), missing[0] if missing else None)


def finish_store(files: FileSystem, store: Path, plan: Plan) -> str:
    """Write the statistics and the MANIFEST of a store whose units are all committed; a finished store stays as it is.

    Returns: the store id.

    Raises: StoreError if a unit is missing.
    """
    if missing := recover(files, store, plan):
        raise StoreError(f"{store}: {len(missing)} of {plan.n_units} units are missing; run extract again to fill them")
    if not (store / MANIFEST).exists():
        files.make_folder(store / STAGING)
        with Lease(files, store / STAGING / f"finish-{uuid.uuid4().hex[:12]}") as drafts:
            _write_statistics(files, store, plan, drafts)
            commits = [commit_name(plan, key) for key in keys(plan)]
            listed = [*commits, *(statistics_name(site) for site in plan.sites)]
            hashes = {name: file_sha256(store / name) for name in listed}
            publish_exclusive(files, drafts / MANIFEST, store / MANIFEST, manifest_json(plan, hashes))
    files.sync_folder(store)
    _forbid_writing(store)
    return file_sha256(store / MANIFEST)


def _write_statistics(files: FileSystem, store: Path, plan: Plan, drafts: Path) -> None:
    records: dict[str, list[Json]] = {site: [] for site in plan.sites}
    for unit in range(plan.n_units):
        record = read_commit(store, plan, unit)
        assert record is not None, "recover found every unit committed"
        for site in plan.sites:
            records[site].append(record.statistics[site])
    for site in plan.sites:
        write_new(files, drafts / f"{site}.json", canonical_json(merge(records[site])))
        files.rename(drafts / f"{site}.json", store / statistics_name(site))
    files.sync_folder(store / STATISTICS)


def _forbid_writing(store: Path) -> None:
    for folder, folders, names in os.walk(store):
        folders[:] = [name for name in folders if name != STAGING]
        for name in names:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & _WRITABLE:
                path.chmod(mode & ~_WRITABLE)


def write_timing(files: FileSystem, store: Path, unit: int, n_rows: int, seconds: float) -> None:
    """Record the time one unit took; the newest attempt's record stays."""
    body = {"unit": unit, "rows": n_rows, "seconds": round(seconds, 3)}
    files.make_folder(store / STAGING)
    with Lease(files, store / STAGING / f"timing-{uuid.uuid4().hex[:12]}") as drafts:
        write_new(files, drafts / "timing", canonical_json(body | {"sha256": sha256(canonical_json(body))}))
        files.rename(drafts / "timing", store / TIMINGS / _name(unit))


class Timing(NamedTuple):
    """How long the units of a store took that have a record of it."""

    rows: int
    seconds: float

    def json(self) -> dict[str, Json]:
        """Rows, seconds and rows a second, for people."""
        return {"rows": self.rows, "seconds": self.seconds, "rows_per_second": self.rows / self.seconds}


def read_timing(path: Path) -> Timing:
    """One unit's timing. Raises: StoreError if it is damaged."""
    try:
        record = read_canonical(path)
        claimed = record.pop("sha256", None)
        if claimed != sha256(canonical_json(record)):
            raise ValueError("its own checksum differs")
        if set(record) != {"unit", "rows", "seconds"} or path.name != _name(as_int(record["unit"])):
            raise ValueError("it is the record of another unit")
        timing = Timing(as_int(record["rows"]), as_number(record["seconds"]))
        if not all(0 <= number <= _MAX_TIMING for number in timing):
            raise ValueError("rows and seconds are not what can be counted")
    except ValueError as error:
        raise StoreError(f"{path}: {error}; the record is damaged (delete it: it is not needed)") from None
    except StoreError as error:
        raise StoreError(f"{error}; the record is damaged (delete it: it is not needed)") from None
    return timing


def total_timing(store: Path) -> Timing | None:
    """Rows and seconds of all timed units together; None where nothing was timed."""
    try:
        records = [read_timing(path) for path in sorted((store / TIMINGS).glob("*.json"))]
    except StoreError:
        return None
    whole = Timing(sum(record.rows for record in records), sum(record.seconds for record in records))
    return whole if whole.seconds > 0 else None


def _name(unit: int) -> str:
    return f"{unit:06d}.json"
