"""Rows in files of other programs, read in pieces: raw numbers, several files in a row, what follows from a shape."""

import bisect
import os
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from strata_sae.pipeline.imports.activations.source_folder import SourceFolder
from strata_sae.stores import Rows
from strata_sae.stores.errors import UnfitRows


class RawRows:
    """Numbers that lie in a file as in memory, row after row, or in runs of rows with something else between them."""

    def __init__(
        self,
        folder: SourceFolder,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        offset_bytes: int = 0,
        run_rows: int | None = None,
        stride_bytes: int = 0,
    ) -> None:
        """`run_rows`, `stride_bytes`: rows that lie together, and how far it is from one such run to the next."""
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._folder, self._name, self._offset_bytes = folder, name, offset_bytes
        self._row_bytes = self.dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._run_rows = max(1, shape[0]) if run_rows is None else run_rows
        self._stride_bytes = stride_bytes

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Raises: UnfitRows if the file was changed or cut."""
        start, stop, _ = rows.indices(self.shape[0])
        found = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        into = found.reshape(-1).view(np.uint8).data
        descriptor = os.open(self._folder.file(self._name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            done = 0
            while start + done < stop:
                run, first = divmod(start + done, self._run_rows)
                take = min(self._run_rows - first, stop - start - done)
                at = self._offset_bytes + run * self._stride_bytes + first * self._row_bytes
                self._fill(descriptor, into[done * self._row_bytes : (done + take) * self._row_bytes], at)
                done += take
        finally:
            os.close(descriptor)
        self._folder.unchanged(self._name)
        return found

    def _fill(self, descriptor: int, into: memoryview, at: int) -> None:
        done = 0
        while done < len(into):
            n_bytes = os.preadv(descriptor, [into[done:]], at + done)
            if n_bytes == 0:
                raise UnfitRows(f"{self._folder.path / self._name}: ends too early; fetch the file again")
            done += n_bytes


class Joined:
    """The rows of several shards, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = parts
        self._ends = list(accumulate(part.shape[0] for part in parts))
        self.shape, self.dtype = (self._ends[-1], *parts[0].shape[1:]), parts[0].dtype

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Rows, of one shard or of several."""
        start, stop, _ = rows.indices(self.shape[0])
        found = []
        number = bisect.bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[number] - self._parts[number].shape[0]
            end = min(stop, self._ends[number])
            if start < end:
                found.append(self._parts[number][start - first : end - first])
            start, number = end, number + 1
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty((0, *self.shape[1:]), self.dtype)


class Computed:
    """Integers that follow from a row's number alone, such as the document of a row in sequences of equal length."""

    def __init__(self, n_rows: int, value_of: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.dtype = (n_rows,), np.dtype(np.int64)
        self._value_of = value_of

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Of the rows' numbers."""
        start, stop, _ = rows.indices(self.shape[0])
        return self._value_of(np.arange(start, stop)).astype(np.int64)


def in_sequences(n_rows: int, length: int) -> dict[str, Rows]:
    """The fields of a token map that follow from sequences of equal length, each a document."""
    return {
        "document": Computed(n_rows, lambda rows_N: rows_N // length),
        "position": Computed(n_rows, lambda rows_N: rows_N % length),
    }
