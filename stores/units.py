"""Filling one unit: stage, commit, publish. The commit record is the one moment at which a unit comes to exist."""

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from stores.canonical import canonical_json, file_sha256, is_file_records, parse_canonical, read_plain, sha256
from stores.encodings import to_float32
from stores.errors import StoreError
from stores.filesystem import FileSystem, publish_exclusive
from stores.format import COMMITS, STAGING
from stores.lease import Lease
from stores.plan import Plan
from stores.shards import ShardWriter
from stores.statistics import Moments

_FORMAT = "strata commit"


class UnitWriter:
    """Streams the rows of one unit to staged files, a chunk per array in memory, and commits them all at once."""

    def __init__(self, files: FileSystem, store: Path, plan: Plan, unit: int, flags_N: np.ndarray) -> None:
        """`flags_N`: the token map's flags of the unit's rows."""
        self._files, self._store, self._plan, self._unit = files, store, plan, unit
        self._start, stop = plan.unit_rows(unit)
        self._n_rows = stop - self._start
        self._flags_N = flags_N
        files.make_folder(store / STAGING)
        self._lease = Lease(files, store / STAGING / f"{unit:06d}-{uuid.uuid4().hex[:12]}")
        self._committing = False
        self._writers: dict[tuple[str, str], ShardWriter] = {}
        try:
            for site, specs in plan.site_specs.items():
                for name, spec in specs.items():
                    self._writers[site, name] = ShardWriter(files, self._lease.folder / f"{site}.{name}", spec)
        except BaseException:
            self.close()
            raise
        self._moments = {site: Moments(d_model) for site, d_model in plan.sites.items()}
        self._done = dict.fromkeys(plan.sites, 0)

    def append(self, site: str, rows_NM: np.ndarray) -> None:
        """Add the next rows of a site, in plan order, in the stored type.

        Raises: StoreError at the first row with a NaN or an infinity, naming it.
        """
        done = self._done[site]
        step = self._plan.rows_per_chunk
        for first in range(0, len(rows_NM), step):
            piece_NM = rows_NM[first : first + step]
            wide_NM = to_float32(piece_NM)
            with np.errstate(over="ignore"):  # a norm beyond float32 is refused in the next line
                norms_N = np.sqrt(np.einsum("nm,nm->n", wide_NM, wide_NM, dtype=np.float64)).astype(np.float32)
            self._refuse_non_finite(site, norms_N, wide_NM, self._start + done + first)
            self._moments[site].add(wide_NM, norms_N, self._flags_N[done + first : done + first + len(piece_NM)])
            self._writers[site, "values"].append(piece_NM)
            self._writers[site, "norm"].append(norms_N)
        self._done[site] = done + len(rows_NM)

    def commit(self) -> bool:
        """Make the unit exist, unless another attempt already has. Returns whether this attempt won.

        After it returns the unit is committed and published, whoever won, and may be acknowledged.
        """
        assert set(self._done.values()) == {self._n_rows}, "a unit is committed only when all of its rows are there"
        specs = self._plan.site_specs
        records = {specs[site][name].shard_path(self._unit): w.finish() for (site, name), w in self._writers.items()}
        self._files.sync_folder(self._lease.folder)
        self._files.sync_folder(self._lease.folder.parent)
        self._files.sync_folder(self._store)
        body = {
            "format": _FORMAT,
            "plan_id": self._plan.id,
            "unit": self._unit,
            "rows": list(self._plan.unit_rows(self._unit)),
            "files": records,
            "statistics": {site: moments.record() for site, moments in self._moments.items()},
        }
        data = canonical_json(body | {"sha256": sha256(canonical_json(body))})
        draft = self._lease.folder / "commit.json"
        self._committing = True
        won = publish_exclusive(self._files, draft, commit_path(self._store, self._unit), data)
        publish(self._files, self._store, self._plan, self._unit)
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

    def _refuse_non_finite(self, site: str, norms_N: np.ndarray, wide_NM: np.ndarray, first_row: int) -> None:
        finite_N = np.isfinite(norms_N)
        if finite_N.all():
            return
        row = int(np.argmin(finite_N))
        bad = wide_NM[row][~np.isfinite(wide_NM[row])]
        value = float(bad[0]) if len(bad) else "a norm beyond float32"
        raise StoreError(
            f"site {site}, row {first_row + row}: the activation holds {value}; a store holds finite numbers only. "
            f"Run the model in float32 or bfloat16 (model.dtype), or store it so (store.encoding)"
        )


def commit_path(store: Path, unit: int) -> Path:
    """Where a unit's commit record lies."""
    return store / COMMITS / f"{unit:06d}.json"


def read_commit(store: Path, plan: Plan, unit: int) -> dict[str, Any] | None:
    """A unit's commit record, or None if the unit is not committed.

    Raises: StoreError if the record is damaged or belongs to another plan or unit.
    """
    path = commit_path(store, unit)
    try:
        data = read_plain(path)
    except FileNotFoundError:
        return None
    record = parse_canonical(data, path)
    claimed = record.pop("sha256", None)
    if claimed != sha256(canonical_json(record)):
        raise StoreError(f"{path}: its own checksum differs; the record is damaged, fetch it again")
    expected = (_FORMAT, plan.id, unit, list(plan.unit_rows(unit)), set(plan.unit_files(unit)), set(plan.sites))
    found = tuple(record.get(key) for key in ("format", "plan_id", "unit", "rows"))
    files, statistics = record.get("files"), record.get("statistics")
    if not isinstance(files, dict) or not is_file_records(files) or not isinstance(statistics, dict):
        raise StoreError(f"{path}: its files or statistics are not what a commit record holds")
    if (*found, set(files), set(statistics)) != expected:
        raise StoreError(f"{path}: it is the record of another plan or unit")
    return record


def publish(files: FileSystem, store: Path, plan: Plan, unit: int) -> None:
    """Bring the files of a committed unit to their final names; whoever comes first does it, for any attempt.

    Raises: StoreError if a committed file is neither published nor staged anywhere.
    """
    record = read_commit(store, plan, unit)
    assert record is not None, "only a committed unit can be published"
    for path, expected in record["files"].items():
        final = store / path
        if not _has_size(final, expected["bytes"]):
            files.make_folder(final.parent)
            files.sync_folder(final.parent.parent)
            staged = _find_staged(store, plan, unit, path, expected)
            try:
                if staged is None:
                    raise FileNotFoundError
                files.sync_path(staged)  # another attempt's file may have the right bytes in memory only
                files.rename(staged, final)
            except FileNotFoundError:  # another worker may have just published it
                if not _has_size(final, expected["bytes"]):
                    raise StoreError(f"{final}: unit {unit} is committed but this file is gone; restore it") from None
    # Not only the names made here: whoever made the others may have died before this step.
    for folder in sorted({(store / path).parent for path in record["files"]}):
        files.sync_folder(folder)


def _has_size(path: Path, n_bytes: int) -> bool:
    try:
        return os.stat(path).st_size == n_bytes
    except OSError:
        return False


def _find_staged(store: Path, plan: Plan, unit: int, path: str, expected: dict[str, Any]) -> Path | None:
    # Every attempt of a unit should stage equal bytes; the hash makes sure that none is published that does not.
    name = {
        spec.shard_path(unit): f"{site}.{array}"
        for site, specs in plan.site_specs.items()
        for array, spec in specs.items()
    }[path]
    for staged in sorted((store / STAGING).glob(f"{unit:06d}-*/{name}")):
        try:
            if _has_size(staged, expected["bytes"]) and file_sha256(staged) == expected["sha256"]:
                return staged
        except FileNotFoundError:
            continue
    return None
