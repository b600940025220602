"""Filling one unit: stage, commit, publish. The commit record is the one moment at which a unit comes to exist."""

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from strata_sae.stores.canonical import canonical_json, file_sha256, parse_canonical, read_plain, sha256
from strata_sae.stores.encoders import site_encoder
from strata_sae.stores.errors import StoreError
from strata_sae.stores.filesystem import FileSystem, publish_exclusive
from strata_sae.stores.format import COMMITS, COMMITS_PER_FOLDER, STAGING, ArraySpec
from strata_sae.stores.lease import Lease
from strata_sae.stores.plan import Plan
from strata_sae.stores.quantisation import Columns
from strata_sae.stores.shard_records import is_file_record
from strata_sae.stores.shards import ShardWriter
from strata_sae.stores.statistics import Moments

_FORMAT = "strata commit"
CALIBRATION = "calibration"
"""Names the commit that an int8 store begins with: its columns."""


class Commit:
    """Staged shard files that come to exist together, or not at all: a unit, or an int8 store's columns."""

    def __init__(self, files: FileSystem, store: Path, plan: Plan, key: int | str) -> None:
        self._files, self._store, self._plan, self._key = files, store, plan, key
        files.make_folder(store / STAGING)
        self._lease = Lease(files, store / STAGING / f"{key_name(key)}-{uuid.uuid4().hex[:12]}")
        self._committing = False
        self._writers: dict[str, ShardWriter] = {}

    def writer(self, site: str, name: str, spec: ArraySpec) -> ShardWriter:
        """A new staged file for an array of a site."""
        writer = ShardWriter(self._files, self._lease.folder / f"{site}.{name}", spec)
        self._writers[spec.shard_path(_shard(self._key))] = writer
        return writer

    def commit(self, statistics: dict[str, Any]) -> bool:
        """Finish the files and make them exist, unless another attempt already has. Returns whether this one won.

        After it returns they are committed and published, whoever won, and may be acknowledged.
        """
        records = {path: writer.finish() for path, writer in self._writers.items()}
        if self._plan.version == 1:  # one that was begun by an older program
            records = {path: {name: record[name] for name in ("bytes", "sha256")} for path, record in records.items()}
        self._files.sync_folder(self._lease.folder)
        self._files.sync_folder(self._lease.folder.parent)
        self._files.sync_folder(self._store)
        body = {
            "format": _FORMAT,
            "plan_id": self._plan.id,
            "unit": self._key,
            "rows": _rows(self._plan, self._key),
            "files": records,
            "statistics": statistics,
        }
        data = canonical_json(body | {"sha256": sha256(canonical_json(body))})
        draft = self._lease.folder / "commit.json"
        self._committing = True
        won = publish_exclusive(self._files, draft, commit_path(self._store, self._plan, self._key), data)
        publish(self._files, self._store, self._plan, self._key)
        self._committing = False
        self.close()
        return won

    def close(self) -> None:
        """Remove what is staged, unless it may be committed and not yet published; safe at any time."""
        for writer in self._writers.values():
            writer.close()
        if self._committing:
            self._lease.abandon()
        else:
            self._lease.release()


class UnitWriter:
    """Streams the rows of one unit to staged files, a chunk per array in memory, and commits them all at once."""

    def __init__(
        self,
        files: FileSystem,
        store: Path,
        plan: Plan,
        unit: int,
        flags_N: np.ndarray,
        columns: dict[str, Columns] | None = None,
    ) -> None:
        """`flags_N`: the token map's flags of the unit's rows; `columns`: int8 only, the store's committed ones."""
        self._plan = plan
        self._start, stop = plan.unit_rows(unit)
        self._n_rows = stop - self._start
        self._flags_N = flags_N
        self._commit = Commit(files, store, plan, unit)
        try:
            self._encoders = {
                site: site_encoder(
                    plan,
                    site,
                    {name: self._commit.writer(site, name, spec) for name, spec in specs.items()},
                    columns or {},
                )
                for site, specs in plan.site_specs.items()
            }
        except BaseException:
            self._commit.close()
            raise
        self._moments = {site: Moments(d_model) for site, d_model in plan.sites.items()}
        self._done = dict.fromkeys(plan.sites, 0)

    def append(
        self, site: str, rows_NM: np.ndarray, *, norms: np.ndarray | None = None, scales: np.ndarray | None = None
    ) -> None:
        """Add the next rows of a site, in plan order: float32, the bits of bfloat16 (uint16), or the stored type.

        Args:
            norms: norms [n] of the rows as they were captured, where they are known better than from the rows.
            scales: int8 only: the rows are encoded already, by this store's columns, and these are their scales [n].
        Raises: StoreError at the first row with a NaN, an infinity or a value the encoding cannot hold, naming it.

        """
        done = self._done[site]
        step = self._plan.rows_per_chunk
        for first in range(0, len(rows_NM), step):
            some = slice(first, first + step)
            at = done + first
            norms_N, stored_NM = self._encoders[site].append(
                rows_NM[some],
                None if norms is None else norms[some],
                None if scales is None else scales[some],
                self._start + at,
            )
            self._moments[site].add(stored_NM, norms_N, self._flags_N[at : at + len(norms_N)])
        self._done[site] = done + len(rows_NM)

    def commit(self) -> bool:
        """Make the unit exist, unless another attempt already has. Returns whether this attempt won."""
        assert set(self._done.values()) == {self._n_rows}, "a unit is committed only when all of its rows are there"
        return self._commit.commit({site: moments.record() for site, moments in self._moments.items()})

    def close(self) -> None:
        """Remove what is staged, unless it may be committed and not yet published; safe at any time."""
        self._commit.close()


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


def _shard(key: int | str) -> int:
    return key if isinstance(key, int) else 0


def _rows(plan: Plan, key: int | str) -> list[int]:
    return list(plan.unit_rows(key)) if isinstance(key, int) else [0, 0]


def _specs(plan: Plan, key: int | str) -> dict[str, dict[str, ArraySpec]]:
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
    shard = _shard(key)
    specs = [spec for site in _specs(plan, key).values() for spec in site.values()]
    chunks = {spec.shard_path(shard): spec.shard_chunks(shard) if plan.version > 1 else None for spec in specs}
    described = set(plan.sites) if isinstance(key, int) else set()
    expected = (_FORMAT, plan.id, key, _rows(plan, key), set(chunks), described)
    found = tuple(record.get(key) for key in ("format", "plan_id", "unit", "rows"))
    files, statistics = record.get("files"), record.get("statistics")
    if not isinstance(files, dict) or not isinstance(statistics, dict):
        raise StoreError(f"{path}: its files or statistics are not what a commit record holds")
    if (*found, set(files), set(statistics)) != expected:
        raise StoreError(f"{path}: it is the record of another plan or unit")
    if not all(is_file_record(files[name], n_chunks) for name, n_chunks in chunks.items()):
        raise StoreError(f"{path}: its files are not what a commit record holds")
    return record


def publish(files: FileSystem, store: Path, plan: Plan, key: int | str) -> None:
    """Bring the files of a committed unit, or calibration, to their final names; anybody may, for any attempt.

    Raises: StoreError if a committed file is neither published nor staged anywhere.
    """
    record = read_commit(store, plan, key)
    assert record is not None, "only a committed unit can be published"
    for path, expected in record["files"].items():
        final = store / path
        if not _has_size(final, expected["bytes"]):
            files.make_folder(final.parent)
            files.sync_folder(final.parent.parent)
            staged = _find_staged(store, plan, key, path, expected)
            try:
                if staged is None:
                    raise FileNotFoundError
                files.sync_path(staged)  # another attempt's file may have the right bytes in memory only
                files.rename(staged, final)
            except FileNotFoundError:  # another worker may have just published it
                if not _has_size(final, expected["bytes"]):
                    raise StoreError(f"{final}: unit {key} is committed but this file is gone; restore it") from None
    # Not only the names made here: whoever made the others may have died before this step.
    for folder in sorted({(store / path).parent for path in record["files"]}):
        files.sync_folder(folder)


def _has_size(path: Path, n_bytes: int) -> bool:
    try:
        return os.stat(path).st_size == n_bytes
    except OSError:
        return False


def _find_staged(store: Path, plan: Plan, key: int | str, path: str, expected: dict[str, Any]) -> Path | None:
    # Every attempt of a unit should stage equal bytes; the hash makes sure that none is published that does not.
    name = {
        spec.shard_path(_shard(key)): f"{site}.{array}"
        for site, specs in _specs(plan, key).items()
        for array, spec in specs.items()
    }[path]
    for staged in sorted((store / STAGING).glob(f"{key_name(key)}-*/{name}")):
        try:
            if _has_size(staged, expected["bytes"]) and file_sha256(staged) == expected["sha256"]:
                return staged
        except FileNotFoundError:
            continue
    return None
