"""A codes store, opened: the rows of a latent, the latents of a row. What is asked for is read, and no more."""

import os
import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path

import numpy as np

from strata_sae.stores.codes import stored_segment
from strata_sae.stores.codes.finishing import Manifest, manifest_of_segments, read_listed, read_manifest
from strata_sae.stores.codes.layout import RECORD, TABLE, metadata_files, parse_record, segment_path
from strata_sae.stores.codes.plan import AGAIN, CodesPlan, check_same
from strata_sae.stores.codes.row_values import row_values
from strata_sae.stores.codes.segment import SegmentCodes
from strata_sae.stores.codes.stored_segment import StoredSegment
from strata_sae.stores.codes.table import parse_table
from strata_sae.stores.codes.writing import read_codes_plan
from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.files.hashing import sha256
from strata_sae.stores.files.mounts import is_safe_to_map
from strata_sae.stores.files.places import Identity, LocalPlace, identity_of
from strata_sae.stores.format.plan import MANIFEST

_OPEN_SEGMENTS = 16
"""Of one codes store: five open files each."""


class CodesStore:
    """The codes of one SAE on every row. Segments are opened when they are first asked for; for several threads.

    What is read is checked: a file that is not the one that the MANIFEST lists, or a chunk that changed, is refused.
    """

    def __init__(self, folder: Path, plan: CodesPlan, manifest: Manifest) -> None:
        self.path, self.plan = folder, plan
        self._manifest = manifest
        seen = _seen(folder, manifest)
        self._place = LocalPlace(folder, mapped=False, identities=seen)
        self._table_place = LocalPlace(folder, mapped=is_safe_to_map(folder), identities=seen)
        self._segments: OrderedDict[int, StoredSegment] = OrderedDict()
        self._lock = threading.Lock()
        self._key = object()

    @staticmethod
    def is_finished(folder: Path) -> bool:
        """Whether a folder holds a finished codes store, to open or to refuse."""
        return (folder / MANIFEST).exists()

    @classmethod
    def open(cls, folder: Path | str, wanted: CodesPlan | None = None) -> "CodesStore":
        """A finished codes store, of which the small files and the size of every other are checked.

        wanted: what it must be of. Raises: StoreError if it is unfinished, damaged, or of something else.
        """
        folder = Path(folder)
        if not cls.is_finished(folder):
            raise StoreError(f"{folder}: no finished codes store; make it with strata codes")
        plan = read_codes_plan(folder)
        if wanted is not None:
            check_same(folder, plan, wanted)
        return cls(folder, plan, read_manifest(folder, plan))

    @classmethod
    def before_finish(cls, folder: Path, plan: CodesPlan) -> "CodesStore":
        """One whose segments are all there and that has no table yet: what a table is made from.

        Raises: StoreError if a segment is missing, or damaged.
        """
        return cls(folder, plan, manifest_of_segments(folder, plan))

    @property
    def id(self) -> str:
        """sha256 of its MANIFEST, which names every file by its hash."""
        return self._manifest.id

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """What is known of each latent, by name; the first axis is [d_sae]. Read-only views of the file."""
        if TABLE not in self._manifest.files:
            raise StoreError(f"{self.path}: has no table of its latents yet; run strata codes again")
        file = self._table_place.open(TABLE)
        data = file.read(0, file.n_bytes)
        if sha256(data.data) != self._manifest.files[TABLE].sha256:
            raise StoreError(f"{self.path / TABLE}: its sha256 is not the one in {MANIFEST}; {AGAIN}")
        table = parse_table(data, self.plan.d_sae, self.path / TABLE)
        file.let_go(0, file.n_bytes)
        return table

    @property
    def n_pairs(self) -> int:
        """Pairs of a row and a latent that is active there (count)."""
        return sum(self._manifest.n_pairs)

    @cached_property
    def count_E(self) -> np.ndarray:
        """Active rows of each latent, of all rows, int64 [E]."""
        count_E = np.zeros(self.plan.d_sae, np.int64)
        for i in range(self.plan.n_segments):
            count_E += np.diff(self.stored(i).offsets("latent", 0, self.plan.d_sae))
        count_E.flags.writeable = False
        return count_E

    def segment(self, segment: int) -> SegmentCodes:
        """All codes of one segment, read-only; rows count from its first. 12 bytes a pair: for what needs them all."""
        return SegmentCodes(*stored_segment.KEPT.get((self._key, segment), self.stored(segment).whole))

    def latents_in(self, segment: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of latents [first, last) in one segment, latent by latent; one read.

        Returns: int64 offsets [last - first + 1], from 0; uint32 rows, from the segment's first; float32 values.
        """
        return self.stored(segment).pairs_of(first, last)

    def postings(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs of latents [start, stop), latent by latent; one read of each segment.

        Returns: int64 offsets [stop - start + 1], from 0; int64 rows, rising in a latent; float32 values.
        Raises: StoreError beyond the latents.
        """
        if not 0 <= start <= stop <= self.plan.d_sae:
            raise StoreError(f"latents {start}..{stop} leave 0..{self.plan.d_sae}")
        parts = [self.latents_in(i, start, stop) for i in range(self.plan.n_segments)]
        counts_E = sum((np.diff(offsets) for offsets, _, _ in parts), np.zeros(stop - start, np.int64))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_E)])
        rows, values, at_E = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.float32), offsets[:-1].copy()
        for i, (within, part_rows, part_values) in enumerate(parts):
            counts_E = np.diff(within)
            to = np.repeat(at_E - within[:-1], counts_E) + np.arange(len(part_rows))
            rows[to] = part_rows.astype(np.int64) + self.plan.segment_rows(i)[0]
            values[to] = part_values
            at_E += counts_E
        return offsets, rows, values

    def rows_of(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows on which a latent is active, rising, int64 [n], and its values there, float32 [n].

        Raises: StoreError if there is no such latent.
        """
        self._check_latent(latent)
        rows, values = [], []
        for i in range(self.plan.n_segments):
            stored = self.stored(i)
            rows.append(stored.rows_of(latent) + self.plan.segment_rows(i)[0])
            values.append(stored.values_of(latent))
        return np.concatenate(rows), np.concatenate(values)

    def latents_of(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The active latents of rows [start, stop): int64 offsets [stop - start + 1], uint32 latents, rising in a row.

        Raises: StoreError beyond the rows.
        """
        if not 0 <= start <= stop <= self.plan.n_rows:
            raise StoreError(f"rows {start}..{stop} leave 0..{self.plan.n_rows}")
        size = self.plan.rows_per_segment
        counts, latents = [np.zeros(1, np.int64)], [np.empty(0, np.uint32)]
        for i in range(start // size, -(-stop // size) if stop > start else start // size):
            first, last = self.plan.segment_rows(i)
            some = self.stored(i).latents_of(max(start, first) - first, min(stop, last) - first)
            counts.append(some[0])
            latents.append(some[1])
        return np.cumsum(np.concatenate(counts)), np.concatenate(latents)

    def row_values(self, start: int, stop: int) -> np.ndarray:
        """The values, float32, of the active latents of rows [start, stop), in the order of `latents_of`.

        Raises: as that.
        """
        if not 0 <= start <= stop <= self.plan.n_rows:
            raise StoreError(f"rows {start}..{stop} leave 0..{self.plan.n_rows}")
        size, found = self.plan.rows_per_segment, [np.empty(0, np.float32)]
        for i in range(start // size, -(-stop // size) if stop > start else start // size):
            first, last = self.plan.segment_rows(i)
            found.append(row_values(self.stored(i), max(start, first) - first, min(stop, last) - first))
        return np.concatenate(found)

    def values(self, latent: int, rows: np.ndarray) -> np.ndarray:
        """A latent's values on rows (int64, any order), float32; 0 where it is silent.

        Raises: StoreError if there is no such latent, or row.
        """
        self._check_latent(latent)
        rows = np.asarray(rows, np.int64)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.plan.n_rows:
            raise StoreError(f"rows {int(rows.min())}..{int(rows.max())} leave 0..{self.plan.n_rows}")
        found = np.zeros(len(rows), np.float32)
        segments = rows // self.plan.rows_per_segment
        for i in np.unique(segments).tolist():
            stored, here = self.stored(i), np.flatnonzero(segments == i)
            active = stored.rows_of(latent)
            if len(active):
                wanted = rows[here] - self.plan.segment_rows(i)[0]
                at = np.searchsorted(active, wanted).clip(max=len(active) - 1)
                fires = active[at] == wanted
                found[here[fires]] = stored.values_of(latent)[at[fires]]
        return found

    def stored(self, segment: int) -> StoredSegment:
        """A segment as it lies on the disk, opened if it is not. Raises: StoreError if there is none, or damaged."""
        self.plan.segment_rows(segment)
        with self._lock:
            if segment in self._segments:
                self._segments.move_to_end(segment)
                return self._segments[segment]
        opened = self._open(segment)
        with self._lock:
            self._segments[segment] = opened
            if len(self._segments) > _OPEN_SEGMENTS:
                self._segments.popitem(last=False)
        return opened

    def _open(self, segment: int) -> StoredSegment:
        listed, n_pairs = self._manifest.files, self._manifest.n_pairs[segment]
        path = f"{segment_path(segment)}/{RECORD}"
        record = parse_record(read_listed(self.path, path, listed[path]), self.path / path, self.plan, segment)
        for name, file in record.files.items():
            if (file.n_bytes, file.sha256) != (listed[name].n_bytes, listed[name].sha256):
                raise StoreError(f"{self.path / path}: says of {name} what {MANIFEST} does not; {AGAIN}")
        for name, data in metadata_files(self.plan, segment, n_pairs).items():
            if read_listed(self.path, name, listed[name]) != data:
                raise StoreError(f"{self.path / name}: is not the metadata of these codes; {AGAIN}")
        return StoredSegment(self._place, self.plan, segment, record)

    def _check_latent(self, latent: int) -> None:
        if not 0 <= latent < self.plan.d_sae:
            raise StoreError(f"latent {latent}: there are latents 0..{self.plan.d_sae - 1}")


def _seen(folder: Path, manifest: Manifest) -> dict[str, Identity]:
    """The identity of every file of a codes store. Raises: StoreError naming one that is not there, or of another size.

    What lies there besides is told by `verify_codes`.
    """
    seen = {}
    for name, file in manifest.files.items():
        try:
            seen[name] = identity_of(os.lstat(folder / name))
        except OSError as error:
            raise StoreError(f"{folder / name}: cannot be looked at ({explain(error)})") from None
        if seen[name].n_bytes != file.n_bytes:
            raise StoreError(f"{folder / name}: {seen[name].n_bytes} bytes instead of {file.n_bytes}; {AGAIN}")
    return seen
