"""A store of rows that somebody has already: arrays in, a finished store out."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.encodings import CODECS, to_float32
from strata_sae.stores.format.plan import FLAG_BOS, FLAG_SPECIAL, FLAG_TEMPLATE, TOKEN_FIELDS, Plan
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.front.store import ActivationStore
from strata_sae.stores.reading.site_rows import committed_columns, is_calibrated
from strata_sae.stores.writing.finishing import finish_store, recover
from strata_sae.stores.writing.planning import create_store, layout
from strata_sae.stores.writing.units import UnitWriter, commit_calibration, sample_spans

CHUNK_BYTES, SHARD_BYTES = 2 * 2**20, 256 * 2**20
"""As `store.chunk_bytes` and `store.shard_bytes` have it; docs/store.md says why."""
HELDOUT_DOCUMENTS = 0.1
"""Share of the documents, the last ones, that are the split `heldout` where the caller names no splits."""
_BLOCK_ROWS = 2**16
_LARGEST = {
    "token_id": 2**31 - 1,
    "document": 2**63 - 1,
    "position": 2**31 - 1,
    "flags": FLAG_BOS | FLAG_SPECIAL | FLAG_TEMPLATE,
}


def write_store(
    path: Path | str,
    rows: Mapping[str, np.ndarray],
    *,
    tokens: Mapping[str, np.ndarray] | None = None,
    vocabulary: Mapping[int, Token] | None = None,
    splits: Mapping[str, tuple[int, int]] | None = None,
    encoding: str = "float32",
    compressor: str = "none",
    chunk_bytes: int = CHUNK_BYTES,
    shard_bytes: int = SHARD_BYTES,
    extras: Mapping[str, bytes] | None = None,
) -> ActivationStore:
    """Write a finished store at `path`. Called again with the same rows it goes on where it stopped.

    Args:
        rows: site -> [N, M], float32, float16 or the bits of bfloat16 (uint16), all of the same N. They are read in
            pieces, so a memory map of a file larger than memory will do.
        tokens: `token_id`, `document`, `position`, `flags` (bits: 1 BOS, 2 special, 4 template), each [N]; `document`
            never falls. One that is left out: token 0; a document a row; the place within the document; no flag.
        vocabulary: what each token id stands for; a name like <17> where it is left out.
        splits: name -> rows [start, stop), together all rows. Left out: the last tenth of the documents is `heldout`,
            the rows before are `train`.
        encoding, compressor: see docs/store.md.
        chunk_bytes, shard_bytes: sizes of a chunk, of a file.
        extras: other files that belong to the rows, by name; of single rows, names begin with `labels.` or `truth.`.

    Returns: the store, opened.
    Raises: StoreError if the arrays do not fit together, hold a NaN or an infinity, or something else is at `path`.

    """
    path = Path(path).expanduser()
    if encoding not in CODECS:
        raise StoreError(f"encoding: {encoding!r} is unknown; allowed: {', '.join(CODECS)}")
    n_rows = _n_rows(rows)
    fields = _token_map(n_rows, tokens or {})
    splits = dict(splits or _splits(fields["document"]))
    sites = {site: int(rows_NM.shape[1]) for site, rows_NM in rows.items()}
    sizes = layout(sites, encoding, chunk_bytes, shard_bytes)
    plan = create_store(
        path,
        ({name: values_N[at : at + _BLOCK_ROWS] for name, values_N in fields.items()} for at in _blocks(n_rows)),
        _vocabulary(fields["token_id"], vocabulary),
        n_rows=n_rows,
        n_documents=int(np.count_nonzero(np.diff(fields["document"]))) + 1,
        extras=dict(extras or {}),
        splits=splits,
        sites=sites,
        encoding=encoding,
        compressor=compressor,
        rows_per_chunk=sizes.rows_per_chunk,
        rows_per_unit=sizes.rows_per_unit,
        config={},
        # The rows name the store, and an interrupted one is never finished with other rows.
        provenance={"rows_sha256": {site: _sha256(rows_NM) for site, rows_NM in rows.items()}},
        calibration=sample_spans(splits.get("train", (0, n_rows))) if encoding == "int8" else None,
    )
    _fill(path, plan, rows, fields["flags"])
    return ActivationStore.open(path)


def _fill(path: Path, plan: Plan, rows: Mapping[str, np.ndarray], flags_N: np.ndarray) -> None:
    files = FileSystem()
    if not is_calibrated(path, plan):
        spans = plan.calibration or []
        sample = {site: [to_float32(rows_NM[a:b]) for a, b in spans] for site, rows_NM in rows.items()}
        commit_calibration(files, path, plan, {site: np.concatenate(parts) for site, parts in sample.items()})
    columns = committed_columns(path, plan)
    for unit in recover(files, path, plan):
        start, stop = plan.unit_rows(unit)
        writer = UnitWriter(files, path, plan, unit, flags_N[start:stop], columns)
        try:
            for at in range(start, stop, _BLOCK_ROWS):
                for site, rows_NM in rows.items():
                    writer.append(site, np.ascontiguousarray(rows_NM[at : min(at + _BLOCK_ROWS, stop)]))
            writer.commit()
        finally:
            writer.close()
    finish_store(files, path, plan)


def _n_rows(rows: Mapping[str, np.ndarray]) -> int:
    for site, rows_NM in rows.items():
        if rows_NM.ndim != 2 or rows_NM.dtype not in (np.float32, np.float16, np.uint16):
            raise StoreError(
                f"rows of {site}: shape {rows_NM.shape}, {rows_NM.dtype}; give [N, M] of float32, float16 or uint16 "
                "(the bits of bfloat16)"
            )
    lengths = {site: len(rows_NM) for site, rows_NM in rows.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise StoreError(f"rows by site: {lengths}; give at least one site, and the same number of rows at each")
    return next(iter(lengths.values()))


def _token_map(n_rows: int, tokens: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if unknown := sorted(set(tokens) - set(TOKEN_FIELDS)):
        raise StoreError(f"tokens: {unknown} are no fields of the token map; allowed: {', '.join(TOKEN_FIELDS)}")
    for name, values_N in tokens.items():
        if values_N.shape != (n_rows,) or values_N.dtype.kind not in "iu":
            raise StoreError(f"tokens: {name}: shape {values_N.shape}, {values_N.dtype}; give {n_rows} integers")
        if values_N.min() < 0 or values_N.max() > _LARGEST[name]:
            raise StoreError(
                f"tokens: {name}: from {values_N.min()} to {values_N.max()}; allowed: 0 to {_LARGEST[name]}"
            )
    document_N = np.asarray(tokens.get("document", np.arange(n_rows)), np.int64)
    if (step_N := np.diff(document_N)).size and step_N.min() < 0:
        raise StoreError(f"tokens: document falls after row {int(np.argmin(step_N))}; a document's rows lie together")
    starts_N = np.flatnonzero(np.diff(document_N, prepend=-1))
    place_N = np.arange(n_rows) - np.repeat(starts_N, np.diff(starts_N, append=n_rows))
    left_out = {"token_id": np.zeros(n_rows), "position": place_N, "flags": np.zeros(n_rows)}
    fields = {**left_out, **tokens, "document": document_N}
    return {name: np.ascontiguousarray(fields[name], kind) for name, kind in TOKEN_FIELDS.items()}


def _splits(document_N: np.ndarray) -> dict[str, tuple[int, int]]:
    starts_N = np.flatnonzero(np.diff(document_N, prepend=-1))
    n_heldout = int(len(starts_N) * HELDOUT_DOCUMENTS)
    first = int(starts_N[-n_heldout]) if n_heldout else len(document_N)
    return {"train": (0, first), "heldout": (first, len(document_N))}


def _vocabulary(token_N: np.ndarray, vocabulary: Mapping[int, Token] | None) -> dict[int, Token]:
    present = [int(token) for token in np.unique(token_N)]
    if vocabulary is None:
        return {token: Token(f"<{token}>".encode(), special=True) for token in present}
    if missing := [token for token in present if token not in vocabulary]:
        raise StoreError(f"vocabulary: it does not say what token {missing[0]} is; name every token id that occurs")
    return dict(vocabulary)


def _blocks(n_rows: int) -> range:
    return range(0, n_rows, _BLOCK_ROWS)


def _sha256(rows_NM: np.ndarray) -> str:
    """Of the numbers, their type and shape, in pieces."""
    digest = hashlib.sha256(f"{rows_NM.dtype} {rows_NM.shape}".encode())
    for at in _blocks(len(rows_NM)):
        digest.update(np.ascontiguousarray(rows_NM[at : at + _BLOCK_ROWS]).data)
    return digest.hexdigest()
