"""Shuffled stores: every row moved once on disk, so that reading in order is reading at random."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from strata_sae.stores.deriving.buckets import Buckets, Mix
from strata_sae.stores.deriving.slice import (
    TokenMap,
    check_space,
    fill_missing,
    kept_extras,
    lineage,
    planned,
    rows_to_copy,
    source_columns,
)
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.lease import Lease, remove_dead
from strata_sae.stores.format.arrays import MANIFEST, PLAN, TOKEN_FIELDS
from strata_sae.stores.format.encodings import CODECS
from strata_sae.stores.format.outside import refuse_inside_a_store
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.sizes import activation_bytes, token_map_bytes, unit_bytes
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.columns import is_calibrated
from strata_sae.stores.writing.calibration import commit_columns
from strata_sae.stores.writing.finishing import finish, recover
from strata_sae.stores.writing.units import UnitWriter

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
        plan = planned(files, out, fields, n_rows, partial(_token_map, source, folder / "tokens", mix))
        if not (out / MANIFEST).is_file():
            _fill(files, source, out, plan, folder, mix, advance)
    finish(files, out, plan)
    return ActivationStore.open(out)


def _fields(source: ActivationStore, seed: int, bucket_rows: int) -> dict[str, Any]:
    plan = source.plan
    kept = ("splits", "sites", "encoding", "compressor", "rows_per_chunk", "rows_per_unit", "config")
    return {name: getattr(plan, name) for name in kept} | {
        "provenance": plan.provenance | {"shuffle": {"seed": seed, "bucket_rows": bucket_rows}},
        "lineage": lineage("shuffle", source, (0, plan.n_rows), ""),
        # The columns are the source's; which rows they came from can no longer be said as ranges.
        "calibration": {"rows": [[0, plan.n_rows]]} if plan.encoding == "int8" else None,
    }


def _check_space_for_all(source: ActivationStore, out: Path, fields: dict[str, Any]) -> None:
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
    fields: list[Any] = []
    for site, d_model in plan.sites.items():
        fields += [(f"{site} rows", CODECS[plan.encoding].dtype, (d_model,)), (f"{site} norms", "<f4")]
        fields += [(f"{site} scales", "<f4")] * (plan.encoding == "int8")
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
