"""Filling one unit: stage, commit, publish. The commit record is the one moment at which a unit comes to exist."""

import os
import uuid
from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.beats import STILL_SECONDS
from strata_sae.stores.files.canonical import Json
from strata_sae.stores.files.filesystem import FileSystem, publish_exclusive
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.files.locks import Lease
from strata_sae.stores.format.commits import (
    CALIBRATION,
    CommitRecord,
    commit_json,
    commit_path,
    key_name,
    read_commit,
    shard_of,
    specs_of,
)
from strata_sae.stores.format.encodings import Columns, calibrate
from strata_sae.stores.format.plan import STAGING, Plan
from strata_sae.stores.format.records import FileRecord
from strata_sae.stores.format.shards import ArraySpec
from strata_sae.stores.format.statistics import Moments
from strata_sae.stores.writing.shards import ShardWriter, site_encoder


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
        self._writers[spec.shard_path(shard_of(self._key))] = writer
        return writer

    def commit(self, statistics: dict[str, Json]) -> bool:
        """Finish the files and make them exist, unless another attempt already has. Returns whether this one won.

        After it returns they are committed and published, whichever attempt won, and may be acknowledged.

        Raises: StoreError if others have taken this process for dead meanwhile.
        """
        try:
            return self._commit(statistics)
        except FileNotFoundError:
            if not self._lease.is_lost():
                raise
            raise StoreError(
                f"{self._store}: unit {self._key} was taken over by another process, which saw no sign of life of this "
                f"one for {STILL_SECONDS:.0f} s (was it stopped, or cut off?); run the same command again: what is "
                f"there is kept"
            ) from None

    def _commit(self, statistics: dict[str, Json]) -> bool:
        records = {path: writer.finish()._replace(path=path) for path, writer in self._writers.items()}
        if self._plan.version == 1:  # one that was begun by an older program
            records = {path: FileRecord(path, file.n_bytes, file.sha256) for path, file in records.items()}
        self._files.sync_folder(self._lease.folder)
        self._files.sync_folder(self._lease.folder.parent)
        self._files.sync_folder(self._store)
        data = commit_json(self._plan, self._key, CommitRecord(records, statistics))
        draft = self._lease.folder / "commit.json"
        self._committing = True
        won = publish_exclusive(self._files, draft, commit_path(self._store, self._plan, self._key), data)
        publish(self._files, self._store, self._plan, self._key)
        self._committing = False
        self.close()
        return won

    def close(self) -> None:
        """Remove what is staged, unless it may be committed and not yet published; may be called at any time."""
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
        """Remove what is staged, unless it may be committed and not yet published; may be called at any time."""
        self._commit.close()


def publish(files: FileSystem, store: Path, plan: Plan, key: int | str) -> None:
    """Move the files of a committed unit, or calibration, to their final names; any process may, for any attempt.

    Raises: StoreError if a committed file is neither published nor staged anywhere.
    """
    record = read_commit(store, plan, key)
    assert record is not None, "only a committed unit can be published"
    for path, expected in record.files.items():
        final = store / path
        if not _has_size(final, expected.n_bytes):
            files.make_folder(final.parent)
            files.sync_folder(final.parent.parent)
            staged = _find_staged(store, plan, key, path, expected)
            try:
                if staged is None:
                    raise FileNotFoundError
                files.sync_path(staged)  # another attempt's file may have the right bytes in memory only
                files.rename(staged, final)
            except FileNotFoundError:  # another worker may have just published it
                if not _has_size(final, expected.n_bytes):
                    raise StoreError(f"{final}: unit {key} is committed but this file is gone; restore it") from None
    # Not only the names made here: the process that made the others may have died before this step.
    for folder in sorted({(store / path).parent for path in record.files}):
        files.sync_folder(folder)


def _has_size(path: Path, n_bytes: int) -> bool:
    try:
        return os.stat(path).st_size == n_bytes
    except OSError:
        return False


def _find_staged(store: Path, plan: Plan, key: int | str, path: str, expected: FileRecord) -> Path | None:
    # Every attempt of a unit should stage equal bytes; the hash makes sure that none is published that does not.
    name = {
        spec.shard_path(shard_of(key)): f"{site}.{array}"
        for site, specs in specs_of(plan, key).items()
        for array, spec in specs.items()
    }[path]
    for staged in sorted((store / STAGING).glob(f"{key_name(key)}-*/{name}")):
        try:
            if _has_size(staged, expected.n_bytes) and file_sha256(staged) == expected.sha256:
                return staged
        except FileNotFoundError:
            continue
    return None


SPANS, ROWS_PER_SPAN = 32, 256
"""A plan without a reason for another sample takes this many spans of this many rows, evenly over the split."""


def sample_spans(split: tuple[int, int], rows_per_span: int = ROWS_PER_SPAN) -> list[tuple[int, int]]:
    """Row ranges spread evenly over a split, on multiples of `rows_per_span` from its start."""
    start, stop = split
    n_pieces = max(1, (stop - start) // rows_per_span)
    chosen = sorted({int(piece) for piece in np.linspace(0, n_pieces - 1, min(SPANS, n_pieces))})
    firsts = [start + piece * rows_per_span for piece in chosen]
    return [(first, min(first + rows_per_span, stop)) for first in firsts]


def commit_calibration(files: FileSystem, store: Path, plan: Plan, sample: dict[str, np.ndarray]) -> None:
    """Compute a site's columns from its calibration rows (float32 [N, M], in plan order) and commit them.

    The first commit counts; later ones change nothing.
    """
    commit_columns(files, store, plan, {site: calibrate(rows_NM) for site, rows_NM in sample.items()})


def commit_columns(files: FileSystem, store: Path, plan: Plan, columns: dict[str, Columns]) -> None:
    """Commit columns that are known already, such as a parent's."""
    commit = Commit(files, store, plan, CALIBRATION)
    try:
        for site, specs in plan.column_specs.items():
            for name, spec in specs.items():
                value = columns[site].offset if name == "column_offset" else columns[site].scale
                commit.writer(site, name, spec).append(np.ascontiguousarray(value, np.float32))
        commit.commit({})
    finally:
        commit.close()
