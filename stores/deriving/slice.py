"""Derived stores: part of a store, or its rows in another encoding, as a finished store that names its parent."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.filesystem import FileSystem, missing_space
from strata_sae.stores.files.places import LocalPlace
from strata_sae.stores.format.encodings import Columns
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.format.plan import (
    MANIFEST,
    PLAN,
    ROW_EXTRAS,
    TOKEN_BYTES,
    TOKEN_FIELDS,
    TOKEN_ROWS_PER_CHUNK,
    Plan,
    unit_bytes,
)
from strata_sae.stores.format.plan_file import read_plan
from strata_sae.stores.format.records import Lineage
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.array import StoredArray, shard_records
from strata_sae.stores.reading.site_rows import committed_columns, is_calibrated
from strata_sae.stores.writing.finishing import finish_store, recover
from strata_sae.stores.writing.planning import PlanFields, create_store
from strata_sae.stores.writing.queue import UnitQueue
from strata_sae.stores.writing.units import UnitWriter, commit_calibration, commit_columns, sample_spans


class TokenMap(NamedTuple):
    """What a plan holds of the tokens, and of what is kept with them."""

    blocks: Iterator[dict[str, np.ndarray]]
    vocabulary: dict[int, Token]
    n_documents: int
    extras: dict[str, bytes]


def slice_store(
    source: ActivationStore,
    out: Path,
    *,
    sites: Sequence[str] | None = None,
    rows: tuple[int, int] | None = None,
    encoding: str | None = None,
    compressor: str | None = None,
    files: FileSystem | None = None,
    advance: Callable[[int], None] | None = None,
) -> ActivationStore:
    """A store at `out` of some sites, a range of rows, or another encoding; null keeps what the source has.

    Blocks and units keep their rows, so with all rows kept the slice serves the source's batches. Goes on where a
    killed call stopped, and any number of processes may run it.

    Args:
        rows: [start, stop) in the source.
        advance: told how many rows of all sites have been written.
    Raises: StoreError if there is no such site or row, the disk is too small, or `out` holds something else.

    """
    files = files or FileSystem()
    start, stop = rows or (0, source.plan.n_rows)
    fields = slice_fields(source, sites, (start, stop), encoding, compressor)
    plan = plan_derived_store(files, out, fields, stop - start, partial(token_map_of, source, start, stop))
    if not (out / MANIFEST).is_file():
        missing = recover(files, out, plan)
        check_space(out, sum(unit_bytes(plan, unit) for unit in missing))
        _calibrate(files, source, out, plan, start)
        fill_missing(files, out, plan, _copier(source, start, advance))
    finish_store(files, out, plan)
    return ActivationStore.open(out)


def plan_derived_store(
    files: FileSystem, out: Path, fields: PlanFields, n_rows: int, token_map: Callable[[], TokenMap]
) -> Plan:
    """The plan at `out`, made there if there is none.

    Raises: StoreError if the plan there is another one's, or `out` lies inside a store.
    """
    refuse_inside_a_store(out, "the new store", may_be_one=True)
    if (out / PLAN).is_file():
        plan = read_plan(out)
        changed = [name for name, value in fields.items() if getattr(plan, name) != value]
        if changed := changed + ["n_rows"] * (plan.n_rows != n_rows):
            raise StoreError(
                f"{out}: holds the store of another plan (other {', '.join(changed)}); "
                f"choose another folder, or delete that one"
            )
        return plan
    made = token_map()
    return create_store(
        out,
        made.blocks,
        made.vocabulary,
        n_rows=n_rows,
        n_documents=made.n_documents,
        extras=made.extras,
        files=files,
        **fields,
    )


def lineage_of(kind: str, source: ActivationStore, rows: tuple[int, int], order_id: str) -> Lineage:
    """Where a derived store comes from. `order_id`: of the order of batches that it shares, or empty."""
    return Lineage(kind, source.id, source.plan.id, order_id, rows)


def check_space(out: Path, needed_bytes: int) -> None:
    """Raises: StoreError if the disk of `out` has less than that free."""
    if problem := missing_space(out.parent, needed_bytes):
        raise StoreError(f"{out}: {problem}; make room, then run the same command again: what is there is kept")


def fill_missing(files: FileSystem, out: Path, plan: Plan, write: Callable[[UnitWriter, Plan, int, int], None]) -> None:
    """Fill and commit every unit that is missing; `write` appends rows [start, stop) of all sites to the writer."""
    spec = plan.token_specs["flags"]
    flags = StoredArray(LocalPlace(out, mapped=False), spec, shard_records(plan.version, spec, plan.files))
    columns = committed_columns(out, plan)
    units = UnitQueue(files, out, plan)
    while (unit := units.take()) is not None:
        try:
            start, stop = plan.unit_rows(unit.number)
            with closing(UnitWriter(files, out, plan, unit.number, flags.rows(start, stop), columns)) as writer:
                write(writer, plan, start, stop)
                writer.commit()
            unit.done()
        finally:
            unit.give_back()


def slice_fields(
    source: ActivationStore,
    sites: Sequence[str] | None,
    rows: tuple[int, int],
    encoding: str | None,
    compressor: str | None,
) -> PlanFields:
    """The fields of the plan of a slice. Raises: StoreError if there is no such site or row."""
    plan, (start, stop) = source.plan, rows
    if not 0 <= start < stop <= plan.n_rows:
        raise StoreError(f"rows {start}:{stop} are not in {source.path}, which has rows 0:{plan.n_rows}")
    if sites is not None and (unknown := [site for site in sites if site not in plan.sites] or not sites):
        raise StoreError(f"{source.path}: has no site {unknown}; it holds {', '.join(plan.sites)}")
    encoding = encoding or plan.encoding
    if compressor is None:
        compressor = "zstd" if plan.compressor == "planes" and encoding != "bfloat16" else plan.compressor
    splits = {
        name: (min(max(first, start), stop) - start, min(max(last, start), stop) - start)
        for name, (first, last) in plan.splits.items()
    }
    whole = (start, stop) == (0, plan.n_rows)
    return {
        "splits": splits,
        "sites": {site: plan.sites[site] for site in sites or plan.sites},
        "encoding": encoding,
        "compressor": compressor,
        "rows_per_chunk": plan.rows_per_chunk,
        "rows_per_unit": plan.rows_per_unit,
        "config": plan.config,
        "provenance": plan.provenance,
        "lineage": lineage_of("slice", source, rows, plan.order_id if whole else ""),
        "calibration": _calibration_rows(source, rows, splits) if encoding == "int8" else None,
    }


def _calibration_rows(
    source: ActivationStore, rows: tuple[int, int], splits: dict[str, tuple[int, int]]
) -> list[tuple[int, int]]:
    """Of an int8 source, whose columns are kept: its calibration rows as far as they are here."""
    start, stop = rows
    if source.plan.calibration is not None:
        spans = [(max(a, start) - start, min(b, stop) - start) for a, b in source.plan.calibration]
        return [span for span in spans if span[0] < span[1]] or [(0, stop - start)]
    train = splits.get("train", (0, 0))
    return sample_spans(train if train[1] > train[0] else (0, stop - start))


def _calibrate(files: FileSystem, source: ActivationStore, out: Path, plan: Plan, first_row: int) -> None:
    """Commit the columns of an int8 store that has none yet: the source's, or computed from the source's rows."""
    if is_calibrated(out, plan):
        return
    if source.plan.encoding == "int8":
        commit_columns(files, out, plan, source_columns(source, plan))
        return
    assert plan.calibration is not None
    spans = [(first_row + start, first_row + stop) for start, stop in plan.calibration]
    sample = {site: np.concatenate([source.float_rows(site, *span) for span in spans]) for site in plan.sites}
    commit_calibration(files, out, plan, sample)


def _copier(
    source: ActivationStore, first_row: int, advance: Callable[[int], None] | None
) -> Callable[[UnitWriter, Plan, int, int], None]:
    def write(writer: UnitWriter, plan: Plan, start: int, stop: int) -> None:
        for site in plan.sites:
            for first in range(start, stop, plan.rows_per_chunk):
                last = min(first + plan.rows_per_chunk, stop)
                piece = first_row + first, first_row + last
                rows, scales = rows_to_copy(source, plan, site, *piece)
                writer.append(site, rows, norms=source.norms(site, *piece), scales=scales)
                if advance is not None:
                    advance(last - first)

    return write


def rows_to_copy(
    source: ActivationStore, plan: Plan, site: str, start: int, stop: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of the source for a writer of `plan`, and their scales where both are int8; exact wherever that can be."""
    if source.plan.encoding == plan.encoding:
        return source.coded_rows(site, start, stop)
    return source.rows(site, start, stop), None


def source_columns(source: ActivationStore, plan: Plan) -> dict[str, Columns]:
    """The columns of an int8 source, for an int8 store of its rows."""
    columns = {site: source.columns(site) for site in plan.sites}
    return {site: found for site, found in columns.items() if found is not None}


def token_map_of(source: ActivationStore, start: int, stop: int) -> TokenMap:
    """What a plan of rows [start, stop) of a source holds of the tokens."""
    words: set[int] = set()
    documents = np.zeros(0, bool)
    for block in _token_blocks(source, start, stop):
        words.update(np.unique(block["token_id"]).tolist())
        highest = int(block["document"].max())
        if highest >= len(documents):
            documents = np.append(documents, np.zeros(max(len(documents), highest + 1 - len(documents)), bool))
        documents[block["document"]] = True
    whole = (start, stop) == (0, source.plan.n_rows)  # documents that are read again and again count each time
    return TokenMap(
        _token_blocks(source, start, stop),
        {word: source.tokens[word] for word in sorted(words)},
        source.plan.n_documents if whole else int(documents.sum()),
        kept_extras(source, same_rows=whole),
    )


def kept_extras(source: ActivationStore, same_rows: bool) -> dict[str, bytes]:
    """The extras of a source for a store of its rows; without those that speak of single rows, unless no row moves."""
    names = [name for name in source.extras if name != TOKEN_BYTES and (same_rows or not name.startswith(ROW_EXTRAS))]
    return {name: source.extra(name) for name in names}


def _token_blocks(source: ActivationStore, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
    for first in range(start, stop, TOKEN_ROWS_PER_CHUNK):
        last = min(first + TOKEN_ROWS_PER_CHUNK, stop)
        yield {field: source.token_map(field, first, last) for field in TOKEN_FIELDS}
