"""Recovery after any interruption, the MANIFEST that makes a store finished, and how long its units took."""

import os
import stat
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.canonical import Json, as_int, as_number, canonical_json, read_canonical
from strata_sae.stores.files.claims import bury, claim
from strata_sae.stores.files.filesystem import FileSystem, publish_exclusive, write_new
from strata_sae.stores.files.hashing import file_sha256, sha256
from strata_sae.stores.files.locks import Lease, abandoned, planning_prefix, remove_abandoned, seized
from strata_sae.stores.format.commits import (
    commit_folders,
    commit_name,
    commit_path,
    committed_units,
    key_name,
    keys,
    manifest_json,
    read_commit,
    statistics_name,
)
from strata_sae.stores.format.plan import MANIFEST, STAGING, STATISTICS, TIMINGS, Plan
from strata_sae.stores.format.statistics import merge
from strata_sae.stores.writing.failures import Failures
from strata_sae.stores.writing.queue import FINISHING, claimed_unit, is_claim
from strata_sae.stores.writing.units import publish

_MAX_TIMING = 2**53
_LOOK_SECONDS = 0.2
"""Between two looks whether the process that finishes the store is done."""
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def recover(files: FileSystem, store: Path, plan: Plan) -> list[int]:
    """Roll every committed unit forward and remove what dead workers left. Idempotent. Returns: the missing units."""
    # Listed first: the files of a worker that commits and dies after this line are kept for the next recovery.
    dead = _dead(files, store, plan) + seized(files, abandoned(store.parent, planning_prefix(store)))
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


def sweep(files: FileSystem, store: Path, plan: Plan) -> list[int]:
    """As `recover`, but it reads no commits other than those of units that dead workers have left files of.

    What it costs does not grow with the store, but for a list of names. Returns: the missing units.
    """
    dead = _dead(files, store, plan)
    staged = {folder.name.partition("-")[0] for folder in dead}
    for key in [key for key in keys(plan) if key_name(key) in staged] if staged else []:
        files.sync_folder(commit_path(store, plan, key).parent)
        if read_commit(store, plan, key) is not None:
            publish(files, store, plan, key)
    remove_abandoned(files, dead)
    return sorted(set(range(plan.n_units)) - committed_units(store, plan))


def _dead(files: FileSystem, store: Path, plan: Plan) -> list[Path]:
    """Staged folders whose owners died; claims of dead owners are removed, and counted as failures of their units."""
    failures = Failures(files, store, plan)
    staging = store / STAGING
    for lock in sorted(os.listdir(staging)) if staging.is_dir() else []:
        if is_claim(lock):
            unit = claimed_unit(lock)
            died = None if unit is None else partial(failures.count_death, unit)
            bury(staging / lock.removesuffix(".lock"), died)
    return seized(files, [folder for folder in abandoned(staging, "") if not is_claim(f"{folder.name}.lock")])


def finish_store(files: FileSystem, store: Path, plan: Plan, *, wait: Callable[[float], None] = time.sleep) -> str:
    """Write the statistics and the MANIFEST of a store whose units are all committed; a finished store stays as it is.

    Of all processes that call this at once, one does it, and the others wait.

    Args:
        wait: is called with seconds while another process is at it.
    Returns: the store id.
    Raises: StoreError if a unit is missing.

    """
    if (store / MANIFEST).exists():
        sweep(files, store, plan)
    while not _is_sealed(store):
        files.make_folder(store / STAGING)
        held = claim(store / STAGING / FINISHING)
        if held is None:
            wait(_LOOK_SECONDS)
            continue
        with held:
            if not (store / MANIFEST).exists():
                _finish(files, store, plan)
            _forbid_writing(store)
        break  # also where a file system knows no modes
    files.sync_folder(store)
    return file_sha256(store / MANIFEST)


def _finish(files: FileSystem, store: Path, plan: Plan) -> None:
    if missing := recover(files, store, plan):
        raise StoreError(f"{store}: {len(missing)} of {plan.n_units} units are missing; run extract again to fill them")
    Failures(files, store, plan).forget_all()
    with Lease(files, store / STAGING / f"finish-{uuid.uuid4().hex[:12]}") as drafts:
        _write_statistics(files, store, plan, drafts)
        commits = [commit_name(plan, key) for key in keys(plan)]
        listed = [*commits, *(statistics_name(site) for site in plan.sites)]
        hashes = {name: file_sha256(store / name) for name in listed}
        publish_exclusive(files, drafts / MANIFEST, store / MANIFEST, manifest_json(plan, hashes))


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


def _is_sealed(store: Path) -> bool:
    """Whether the store is finished, and `_forbid_writing` came to its end: the MANIFEST is its last file."""
    try:
        return not (store / MANIFEST).stat().st_mode & _WRITABLE
    except FileNotFoundError:
        return False


def _forbid_writing(store: Path) -> None:
    for folder, folders, names in os.walk(store):
        folders[:] = [name for name in folders if name != STAGING]
        for name in names:
            if name != MANIFEST:
                _forbid_writing_to(Path(folder, name))
    _forbid_writing_to(store / MANIFEST)


def _forbid_writing_to(path: Path) -> None:
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
