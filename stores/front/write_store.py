"""A store of rows that somebody has already: arrays in, a finished store out."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError, UnfitRows
from strata_sae.stores.files.canonical import Json
from strata_sae.stores.files.filesystem import FileSystem, missing_space
from strata_sae.stores.files.places import LocalPlace
from strata_sae.stores.format.encodings import CODECS, to_float32
from strata_sae.stores.format.plan import Plan, unit_bytes
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.front.deleting import delete_store
from strata_sae.stores.front.given_tokens import GivenTokens, Rows
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.array import StoredArray, shard_records
from strata_sae.stores.reading.site_rows import committed_columns, is_calibrated
from strata_sae.stores.writing.finishing import finish_store, recover
from strata_sae.stores.writing.planning import PlanFields, create_store, layout
from strata_sae.stores.writing.units import UnitWriter, commit_calibration, sample_spans

CHUNK_BYTES, SHARD_BYTES = 2 * 2**20, 256 * 2**20
"""As `store.chunk_bytes` and `store.shard_bytes` have it; docs/store.md says why."""
HELDOUT_DOCUMENTS = 0.1
"""Share of the documents, the last ones, that are the split `heldout` where the caller names no splits."""
_HASHED_BYTES = 4 * 2**20


def write_store(
    path: Path | str,
    rows: Mapping[str, Rows],
    *,
    tokens: Mapping[str, Rows] | None = None,
    vocabulary: Mapping[int, Token] | None = None,
    splits: Mapping[str, tuple[int, int]] | None = None,
    heldout: float = HELDOUT_DOCUMENTS,
    encoding: str = "float32",
    compressor: str = "none",
    chunk_bytes: int = CHUNK_BYTES,
    shard_bytes: int = SHARD_BYTES,
    extras: Mapping[str, bytes] | None = None,
    provenance: Mapping[str, Json] | None = None,
    advance: Callable[[int], None] | None = None,
) -> ActivationStore:
    """Write a finished store at `path`. Called again with the same rows it goes on where it stopped.

    Args:
        rows: site -> [N, M], float32, float16 or the bits of bfloat16 (uint16), all of the same N. They are read in
            pieces of about a chunk, so a memory map of a file larger than memory will do.
        tokens: `token_id`, `document`, `position`, `flags` (bits: 1 BOS, 2 special, 4 template), each [N]; `document`
            never falls. One that is left out: token 0; a document a row; the place within the document; no flag.
        vocabulary: what each token id stands for; a name like <17> where it is left out.
        splits: name -> rows [start, stop), together all rows. Left out: the last tenth of the documents is `heldout`,
            the rows before are `train`.
        heldout: another share, from 0 to below 1.
        encoding, compressor, chunk_bytes, shard_bytes: see docs/store.md; sizes of a chunk, of a file.
        extras: other files that belong to the rows, by name; of single rows, names begin with `labels.` or `truth.`.
        provenance: where the rows come from. It must tell them from all others, as hashes of their files do; left out,
            the rows themselves are hashed, which reads them once more.
        advance: told how many rows of all sites have been written.

    Returns: the store, opened.
    Raises: StoreError if the arrays do not fit together, the disk is too small, or something else is at `path`;
        UnfitRows if they hold a NaN or an infinity, or cannot be read: then nothing of the store is left.

    """
    path = Path(path).expanduser()
    if encoding not in CODECS:
        raise StoreError(f"encoding: {encoding!r} is unknown; allowed: {', '.join(CODECS)}")
    given = GivenTokens(_n_rows(rows), tokens or {})
    survey = given.survey()
    splits = dict(splits or given.splits(survey.n_documents, heldout))
    plan = create_store(
        path,
        given.blocks(),
        _vocabulary(survey.words, vocabulary),
        n_rows=given.n_rows,
        n_documents=survey.n_documents,
        extras=dict(extras or {}),
        **_fields(rows, splits, encoding, compressor, chunk_bytes, shard_bytes, provenance),
    )
    try:
        _fill(path, plan, rows, advance)
    except UnfitRows:
        with suppress(StoreError):  # another process fills it, too, and comes upon the same row
            delete_store(path)
        raise
    return ActivationStore.open(path)


def _fields(
    rows: Mapping[str, Rows],
    splits: dict[str, tuple[int, int]],
    encoding: str,
    compressor: str,
    chunk_bytes: int,
    shard_bytes: int,
    provenance: Mapping[str, Json] | None,
) -> PlanFields:
    sites = {site: int(rows_NM.shape[1]) for site, rows_NM in rows.items()}
    sizes = layout(sites, encoding, chunk_bytes, shard_bytes)
    if provenance is None:
        # The rows name the store, and an interrupted one is never finished with other rows.
        provenance = {"rows_sha256": {site: _sha256(rows_NM) for site, rows_NM in rows.items()}}
    return {
        "splits": splits,
        "sites": sites,
        "encoding": encoding,
        "compressor": compressor,
        "rows_per_chunk": sizes.rows_per_chunk,
        "rows_per_unit": sizes.rows_per_unit,
        "config": {},
        "provenance": dict(provenance),
        "calibration": sample_spans(splits.get("train", (0, _n_rows(rows)))) if encoding == "int8" else None,
    }


def _fill(path: Path, plan: Plan, rows: Mapping[str, Rows], advance: Callable[[int], None] | None) -> None:
    files = FileSystem()
    missing = recover(files, path, plan)
    if problem := missing_space(path, sum(unit_bytes(plan, unit) for unit in missing)):
        raise StoreError(f"{path}: {problem}; make room, then run the same command again: what is there is kept")
    if not is_calibrated(path, plan):
        spans = plan.calibration or []
        sample = {site: [to_float32(rows_NM[a:b]) for a, b in spans] for site, rows_NM in rows.items()}
        commit_calibration(files, path, plan, {site: np.concatenate(parts) for site, parts in sample.items()})
    columns = committed_columns(path, plan)
    spec = plan.token_specs["flags"]
    flags = StoredArray(LocalPlace(path, mapped=False), spec, shard_records(plan.version, spec, plan.files))
    for unit in missing:
        start, stop = plan.unit_rows(unit)
        writer = UnitWriter(files, path, plan, unit, flags.rows(start, stop), columns)
        try:
            for at, end in _pieces(start, stop, plan.rows_per_chunk):
                for site, rows_NM in rows.items():
                    writer.append(site, np.ascontiguousarray(rows_NM[at:end]))
                    if advance is not None:
                        advance(end - at)
            writer.commit()
        finally:
            writer.close()
    finish_store(files, path, plan)


def _n_rows(rows: Mapping[str, Rows]) -> int:
    for site, rows_NM in rows.items():
        if len(rows_NM.shape) != 2 or rows_NM.dtype not in (np.float32, np.float16, np.uint16):
            raise StoreError(
                f"rows of {site}: shape {rows_NM.shape}, {rows_NM.dtype}; give [N, M] of float32, float16 or uint16 "
                "(the bits of bfloat16)"
            )
    lengths = {site: rows_NM.shape[0] for site, rows_NM in rows.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise StoreError(f"rows by site: {lengths}; give at least one site, and the same number of rows at each")
    return next(iter(lengths.values()))


def _vocabulary(words: list[int], vocabulary: Mapping[int, Token] | None) -> dict[int, Token]:
    if vocabulary is None:
        return {token: Token(f"<{token}>".encode(), special=True) for token in words}
    if missing := [token for token in words if token not in vocabulary]:
        raise StoreError(f"vocabulary: it does not say what token {missing[0]} is; name every token id that occurs")
    return dict(vocabulary)


def _pieces(start: int, stop: int, n_rows: int) -> Iterator[tuple[int, int]]:
    for at in range(start, stop, n_rows):
        yield at, min(at + n_rows, stop)


def _sha256(rows_NM: Rows) -> str:
    """Of the numbers, their type and shape, in pieces."""
    n_rows, width = rows_NM.shape
    digest = hashlib.sha256(f"{rows_NM.dtype} {rows_NM.shape}".encode())
    for at, end in _pieces(0, n_rows, max(1, _HASHED_BYTES // max(1, width * rows_NM.dtype.itemsize))):
        digest.update(np.ascontiguousarray(rows_NM[at:end]).data)
    return digest.hexdigest()
