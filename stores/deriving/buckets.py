"""The two passes of a shuffle on disk: rows are appended to buckets at random, then each bucket is permuted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from strata_sae.stores.format.permutation import permutation, random_words

_HELD_BYTES = 2**28


@dataclass(frozen=True)
class Mix:
    """A random order of a store's rows, split by split: each row draws a bucket, and each bucket is permuted.

    Every order is equally likely, and no more than a bucket is ever in memory.
    """

    key: list[object]
    splits: dict[str, tuple[int, int]]
    bucket_rows: int
    """Rows of a bucket, about."""
    rows_per_draw: int

    def buckets(self) -> list[tuple[str, int]]:
        """All buckets in the order of their rows: (split, number)."""
        ordered = sorted(self.splits, key=lambda name: self.splits[name])
        return [(name, number) for name in ordered for number in range(self._n_buckets(name))]

    def pieces(self, split: str) -> Iterator[tuple[int, int]]:
        """The source's rows [start, stop) of a split that are read and drawn together."""
        first, last = self.splits[split]
        for start in range(first, last, self.rows_per_draw):
            yield start, min(start + self.rows_per_draw, last)

    def draw(self, split: str, start: int, stop: int) -> np.ndarray:
        """Bucket of each row of a piece, int64."""
        words_N = random_words([*self.key, split, "draw", start], stop - start) >> np.uint64(32)
        return np.asarray(words_N * np.uint64(self._n_buckets(split)) >> np.uint64(32)).astype(np.int64)

    def order(self, split: str, bucket: int, n_rows: int) -> np.ndarray:
        """The order of a bucket's rows, int64."""
        return permutation([*self.key, split, "bucket", bucket], n_rows)

    def _n_buckets(self, split: str) -> int:
        start, stop = self.splits[split]
        return -(-(stop - start) // self.bucket_rows)


class Buckets:
    """Records of all rows in a working folder, a file a bucket; read back in the order of the mix."""

    def __init__(self, folder: Path, mix: Mix, dtype: np.dtype, read: Callable[[int, int], np.ndarray]) -> None:
        """`read` gives the records of source rows [start, stop); each is asked for once, in order."""
        self._folder, self._mix, self._dtype = folder, mix, dtype
        folder.mkdir()
        for split in mix.splits:
            self._distribute(split, read)
        self._buckets = mix.buckets()
        sizes = [self._path(*bucket).stat().st_size if self._path(*bucket).exists() else 0 for bucket in self._buckets]
        self._starts = np.concatenate([[0], np.cumsum(sizes) // dtype.itemsize])
        self._held: tuple[int, np.ndarray] = (-1, np.empty(0, dtype))

    def pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Records [start, stop) of the new order, piece by piece."""
        while start < stop:
            bucket = int(np.searchsorted(self._starts, start, side="right")) - 1
            first, last = self._starts[bucket : bucket + 2].tolist()
            end = min(stop, last)
            yield self._load(bucket)[start - first : end - first]
            start = end

    def _distribute(self, split: str, read: Callable[[int, int], np.ndarray]) -> None:
        held: list[np.ndarray] = []
        drawn: list[np.ndarray] = []
        n_bytes = 0
        for start, stop in self._mix.pieces(split):
            held.append(read(start, stop))
            drawn.append(self._mix.draw(split, start, stop))
            n_bytes += held[-1].nbytes
            if n_bytes >= _HELD_BYTES:
                self._append(split, np.concatenate(held), np.concatenate(drawn))
                held, drawn, n_bytes = [], [], 0
        if held:
            self._append(split, np.concatenate(held), np.concatenate(drawn))

    def _append(self, split: str, records_N: np.ndarray, bucket_N: np.ndarray) -> None:
        order_N = np.argsort(bucket_N, kind="stable")  # the source's order within a bucket, whatever is held at a time
        edges = np.flatnonzero(np.diff(bucket_N[order_N], prepend=-1))
        for rows_N in np.split(order_N, edges[1:]):
            with self._path(split, int(bucket_N[rows_N[0]])).open("ab") as file:
                file.write(records_N[rows_N].tobytes())

    def _load(self, bucket: int) -> np.ndarray:
        if self._held[0] != bucket:
            split, number = self._buckets[bucket]
            self._held = (-1, np.empty(0, self._dtype))  # let go of one before the next is there
            records_N = np.fromfile(self._path(split, number), self._dtype)
            self._held = (bucket, records_N[self._mix.order(split, number, len(records_N))])
        return self._held[1]

    def _path(self, split: str, bucket: int) -> Path:
        return self._folder / f"{split}-{bucket:06d}"
