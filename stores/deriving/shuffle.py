"""Shuffled stores: every row moved once on disk, so that reading in order is reading at random."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from strata_sae.stores.deriving.slice import (
    TokenMap,
    check_space,
    fill_missing,
    kept_extras,
    lineage_of,
    plan_derived_store,
    rows_to_copy,
    slice_fields,
    source_columns,
)
from strata_sae.stores.files.canonical import Json
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.locks import Lease, remove_dead
from strata_sae.stores.format.encodings import CODECS
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.format.plan import (
    MANIFEST,
    PLAN,
    TOKEN_FIELDS,
    Plan,
    activation_bytes,
    token_map_bytes,
    unit_bytes,
)
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.masks import permutation, random_words
from strata_sae.stores.reading.site_rows import is_calibrated
from strata_sae.stores.writing.finishing import finish_store, recover
from strata_sae.stores.writing.planning import PlanFields
from strata_sae.stores.writing.units import UnitWriter, commit_columns

_HELD_BYTES = 2**28


@dataclass(frozen=True)
class Mix:
    """A random order of a store's rows, split by split: each row draws a bucket, and each bucket is permuted.

    Every order is equally likely, and no more than a bucket is ever in memory.
    """

    key: list[Json]
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
            self._held = (-1, np.empty(0, self._dtype))  # one is freed before the next is read
            records_N = np.fromfile(self._path(split, number), self._dtype)
            self._held = (bucket, records_N[self._mix.order(split, number, len(records_N))])
        return self._held[1]

    def _path(self, split: str, bucket: int) -> Path:
        return self._folder / f"{split}-{bucket:06d}"


BUCKET_ROWS = 2**16


def shuffle_store(
    source: ActivationStore,
    out: Path,
    *,
    seed: int,
    bucket_rows: int = BUCKET_ROWS,
    files: FileSystem | None = None,
    advance: Callable[[int], None] | None = None,
) -> ActivationStore:
    """A store at `out` of the same rows, permuted within each split by `seed`; the token map is permuted alike.

    Two passes: rows are appended to buckets beside `out`, then each bucket is permuted in memory. While it runs it
    needs the disk twice. A killed call is made again: units that are there stay.

    Args:
        bucket_rows: rows held in memory at a time, about; the order depends on it.
        advance: told how many rows have been written.
    Raises: StoreError if the disk is too small, or `out` holds something else.

    """
    files = files or FileSystem()
    fields = _fields(source, seed, bucket_rows)
    mix = Mix(
        [source.plan.order_id, "shuffle", seed, bucket_rows],
        source.plan.splits,
        bucket_rows,
        source.plan.rows_per_chunk,
    )
    refuse_inside_a_store(out, "the new store", may_be_one=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.shuffling-"
    remove_dead(files, out.parent, prefix)
    with Lease(files, out.with_name(prefix + uuid.uuid4().hex[:12])) as folder:
        n_rows = source.plan.n_rows
        if not (out / PLAN).is_file():
            _check_space_for_all(source, out, fields)
        plan = plan_derived_store(files, out, fields, n_rows, partial(_token_map, source, folder / "tokens", mix))
        if not (out / MANIFEST).is_file():
            _fill(files, source, out, plan, folder, mix, advance)
    finish_store(files, out, plan)
    return ActivationStore.open(out)


def _fields(source: ActivationStore, seed: int, bucket_rows: int) -> PlanFields:
    plan = source.plan
    return {
        **slice_fields(source, None, (0, plan.n_rows), None, None),
        "provenance": plan.provenance | {"shuffle": {"seed": seed, "bucket_rows": bucket_rows}},
        "lineage": lineage_of("shuffle", source, (0, plan.n_rows), ""),
        # The columns are the source's; which rows they came from can no longer be said as ranges.
        "calibration": [(0, plan.n_rows)] if plan.encoding == "int8" else None,
    }


def _check_space_for_all(source: ActivationStore, out: Path, fields: PlanFields) -> None:
    plan = replace(source.plan, **fields)
    tokens = plan.n_rows * np.dtype(list(TOKEN_FIELDS.items())).itemsize + token_map_bytes(plan)
    check_space(out, tokens + activation_bytes(plan) + plan.n_rows * _record_type(plan).itemsize)


def _fill(
    files: FileSystem,
    source: ActivationStore,
    out: Path,
    plan: Plan,
    folder: Path,
    mix: Mix,
    advance: Callable[[int], None] | None,
) -> None:
    missing = recover(files, out, plan)
    dtype = _record_type(plan)
    if missing:
        check_space(out, sum(unit_bytes(plan, unit) for unit in missing) + plan.n_rows * dtype.itemsize)
        if plan.encoding == "int8" and not is_calibrated(out, plan):
            commit_columns(files, out, plan, source_columns(source, plan))
        buckets = Buckets(folder / "rows", mix, dtype, partial(_records, source, plan, dtype))
        fill_missing(files, out, plan, partial(_write, buckets, advance))


def _record_type(plan: Plan) -> np.dtype:
    """A row of every site as it is stored, with its norm, and its scale where the store is int8."""
    fields: list[tuple[str, str, tuple[int, ...]]] = []
    for site, d_model in plan.sites.items():
        fields += [(f"{site} rows", CODECS[plan.encoding].dtype, (d_model,)), (f"{site} norms", "<f4", ())]
        fields += [(f"{site} scales", "<f4", ())] * (plan.encoding == "int8")
    return np.dtype(fields)


def _records(source: ActivationStore, plan: Plan, dtype: np.dtype, start: int, stop: int) -> np.ndarray:
    records_N = np.empty(stop - start, dtype)
    for site in plan.sites:
        rows, scales = rows_to_copy(source, plan, site, start, stop)
        records_N[f"{site} rows"], records_N[f"{site} norms"] = rows, source.norms(site, start, stop)
        if scales is not None:
            records_N[f"{site} scales"] = scales
    return records_N


def _write(
    buckets: Buckets, advance: Callable[[int], None] | None, writer: UnitWriter, plan: Plan, start: int, stop: int
) -> None:
    for records_N in buckets.pieces(start, stop):
        for site in plan.sites:
            scales = records_N[f"{site} scales"] if plan.encoding == "int8" else None
            writer.append(site, records_N[f"{site} rows"], norms=records_N[f"{site} norms"], scales=scales)
        if advance is not None:
            advance(len(records_N))


def _token_map(source: ActivationStore, folder: Path, mix: Mix) -> TokenMap:
    dtype = np.dtype(list(TOKEN_FIELDS.items()))

    def read(start: int, stop: int) -> np.ndarray:
        records_N = np.empty(stop - start, dtype)
        for field in TOKEN_FIELDS:
            records_N[field] = source.token_map(field, start, stop)
        return records_N

    buckets = Buckets(folder, mix, dtype, read)
    blocks = (
        {field: np.ascontiguousarray(records_N[field]) for field in TOKEN_FIELDS}
        for records_N in buckets.pieces(0, source.plan.n_rows)
    )
    return TokenMap(blocks, source.tokens, source.plan.n_documents, kept_extras(source, same_rows=False))
