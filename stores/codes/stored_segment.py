"""A segment on disk, read chunk by chunk; what is decoded is kept while the process has room for it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import google_crc32c
import numpy as np

from strata_sae.stores.codes.gaps import blocks, check_offsets, numbers_of
from strata_sae.stores.codes.layout import SegmentRecord, array_specs, segment_path
from strata_sae.stores.codes.plan import AGAIN, CodesPlan
from strata_sae.stores.codes.segment import SegmentCodes, check_values
from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.places import Place
from strata_sae.stores.reading.array import ChunkRecords, StoredArray

KEPT_BYTES = 96 * 2**20
"""Of what is decoded, in the whole process: a chunk of 65,536 entries takes 0.5 MB, all codes of the demo 52."""
Arrays = tuple[np.ndarray, ...]


class Kept:
    """Arrays by key, the longest unused forgotten beyond a limit in bytes; for several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.n_bytes = limit_bytes, 0
        self._kept: OrderedDict[Hashable, Arrays] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Arrays]) -> Arrays:
        """What is kept under a key, made if it is not; read-only."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        arrays = make()
        for array in arrays:
            array.flags.writeable = False
        n_bytes = _bytes(arrays)
        if n_bytes > self.limit_bytes:
            return arrays
        with self._lock:
            if key not in self._kept:
                self._kept[key] = arrays
                self.n_bytes += n_bytes
            while self.n_bytes > self.limit_bytes:
                self.n_bytes -= _bytes(self._kept.popitem(last=False)[1])
        return arrays


def _bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays)


KEPT = Kept(KEPT_BYTES)


class StoredSegment:
    """One segment of R rows, P pairs, E latents. Each chunk is checked when it is first read, its content each time."""

    def __init__(self, place: Place, plan: CodesPlan, segment: int, record: SegmentRecord) -> None:
        start, stop = plan.segment_rows(segment)
        self.n_rows, self.d_sae, self.n_pairs = stop - start, plan.d_sae, record.n_pairs
        self.where = f"{place.name}/{segment_path(segment)}"
        self.arrays: dict[str, StoredArray] = {}
        for name, spec in array_specs(plan, segment, record.n_pairs).items():
            records = ChunkRecords()
            for path in spec.shard_paths():
                records.add(record.files[path])
            self.arrays[name] = StoredArray(place, spec, records)
        self.key = object()
        """Of this segment in KEPT, as long as it is open."""

    def entries(self, name: str, start: int, stop: int, *, keep: bool = True) -> np.ndarray:
        """Entries [start, stop) of an array, as they are stored. keep: what is decoded, if there is room for it."""
        array = self.arrays[name]
        pieces = [self.chunk(name, chunk, keep=keep)[some] for chunk, some in array.pieces(start, stop)]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, array.spec.dtype)

    def offsets(self, order: str, first: int, last: int) -> np.ndarray:
        """int64 [last - first + 1]: where the pairs of rows, or latents, [first, last) begin, and where they end."""
        offsets = self.entries(f"{order}/offset", first, last + 1).astype(np.int64)
        check_offsets(offsets, self.n_pairs, f"{self.where}/{order}/offset")
        return offsets

    def rows_of(self, latent: int) -> np.ndarray:
        """The rows on which a latent is active, rising, int64, from the segment's first."""
        begin, end = self.offsets("latent", latent, latent + 1)
        return numbers_of(
            self.entries("latent/gap", begin, end),
            np.array([0, end - begin]),
            self.n_rows,
            f"{self.where}/latent/gap: the rows of latent {latent}",
        )

    def values_of(self, latent: int) -> np.ndarray:
        """Its values there, float32."""
        begin, end = self.offsets("latent", latent, latent + 1)
        values = self.entries("latent/value", begin, end)
        check_values(values, f"{self.where}/latent/value")
        return values

    def pairs_of(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets from 0, int64 [last - first + 1], rows from the segment's first, uint32, and values of latents."""
        offsets = self.offsets("latent", first, last)
        begin, end = int(offsets[0]), int(offsets[-1])
        what = f"{self.where}/latent/gap: the rows of latents {first}..{last - 1}"
        rows = numbers_of(self.entries("latent/gap", begin, end), offsets - begin, self.n_rows, what)
        values = self.entries("latent/value", begin, end)
        check_values(values, f"{self.where}/latent/value")
        return offsets - begin, rows.astype(np.uint32), values

    def latents_of(self, start: int, stop: int, *, keep: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Counts, int64 [stop - start], and active latents, uint32, of rows [start, stop). keep: as of `entries`."""
        offsets = self.offsets("row", start, stop)
        latents = self.entries("row/latent", int(offsets[0]), int(offsets[-1]), keep=keep).astype(np.uint32)
        self._check_latents(latents)
        return np.diff(offsets), latents

    def whole(self) -> SegmentCodes:
        """All of it: 12 bytes a pair. What is decoded on the way is not kept."""
        row_offset, latent_offset = self.offsets("row", 0, self.n_rows), self.offsets("latent", 0, self.d_sae)
        row_latent, latent_value = self._all("row/latent", np.uint32), self._all("latent/value", np.float32)
        latent_row = self._all("latent/gap", np.uint32)
        if row_offset[-1] != self.n_pairs or latent_offset[-1] != self.n_pairs or row_offset[0] or latent_offset[0]:
            raise StoreError(f"{self.where}: its offsets leave out some of {self.n_pairs} pairs; {AGAIN}")
        for first, last in blocks(latent_offset):
            begin, end = int(latent_offset[first]), int(latent_offset[last])
            within = latent_offset[first : last + 1] - begin
            what = f"{self.where}/latent/gap: the rows of latents {first}..{last - 1}"
            latent_row[begin:end] = numbers_of(latent_row[begin:end], within, self.n_rows, what)
        return SegmentCodes(row_offset, row_latent, latent_offset, latent_row, latent_value)

    def crc32c(self, name: str) -> int:
        """crc32c of all entries of an array as they are decoded. Nothing is kept."""
        array, crc = self.arrays[name], 0
        for chunk in range(array.spec.n_chunks):
            crc = google_crc32c.extend(crc, self._read(name, chunk).tobytes())
        return crc

    def _all(self, name: str, dtype: type[np.generic]) -> np.ndarray:
        array = self.arrays[name]
        found = np.empty(self.n_pairs, dtype)
        for chunk in range(array.spec.n_chunks):
            start, stop = array.chunk_rows(chunk)
            found[start:stop] = self._read(name, chunk)
            if name == "row/latent":
                self._check_latents(found[start:stop])
            elif name == "latent/value":
                check_values(found[start:stop], f"{self.where}/{name}")
        return found

    def _check_latents(self, latents: np.ndarray) -> None:
        if len(latents) and int(latents.max()) >= self.d_sae:
            raise StoreError(f"{self.where}/row/latent: {int(latents.max())} of {self.d_sae} latents; {AGAIN}")

    def chunk(self, name: str, chunk: int, *, keep: bool = True) -> np.ndarray:
        """One chunk of an array. keep: as of `entries`."""
        if not keep:
            return self._read(name, chunk)
        return KEPT.get((self.key, name, chunk), lambda: (self._read(name, chunk),))[0]

    def _read(self, name: str, chunk: int) -> np.ndarray:
        try:
            return self.arrays[name].chunk(chunk)
        except StoreError as error:
            raise StoreError(f"{error}; or {AGAIN}") from None
