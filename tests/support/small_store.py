"""Small stores with known rows, for every test that needs one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.encodings import to_float32
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.vocabulary import Token
from strata_sae.stores.reading.site_rows import committed_columns, is_calibrated
from strata_sae.stores.writing.finishing import finish_store
from strata_sae.stores.writing.planning import create_store, layout
from strata_sae.stores.writing.queue import UnitQueue
from strata_sae.stores.writing.units import UnitWriter, commit_calibration, sample_spans

DOCUMENT_ROWS = 37
N_WORDS = 50


def token_map(n_rows: int, document_rows: int = DOCUMENT_ROWS) -> dict[str, np.ndarray]:
    """Documents of equal length, each beginning with a BOS token."""
    row_N = np.arange(n_rows)
    position_N = row_N % document_rows
    return {
        "token_id": np.where(position_N == 0, 0, 1 + row_N * 7 % (N_WORDS - 1)).astype(np.int32),
        "document": (row_N // document_rows).astype(np.int64),
        "position": position_N.astype(np.int32),
        "flags": (position_N == 0).astype(np.uint8),
    }


def stored_rows(site: str, n_rows: int, d_model: int, encoding: str = "float32") -> np.ndarray:
    """Sparse sums of unit directions, a little noise and an offset, as stored; BOS rows are 50 times longer."""
    rng = np.random.default_rng([len(site), d_model])
    directions_EM = rng.standard_normal((4 * d_model, d_model)).astype(np.float32)
    directions_EM /= np.linalg.norm(directions_EM, axis=1, keepdims=True)
    codes_NE = rng.random((n_rows, len(directions_EM)), np.float32) * (rng.random((n_rows, len(directions_EM))) < 0.02)
    rows_NM = codes_NE @ directions_EM + 0.01 * rng.standard_normal((n_rows, d_model)).astype(np.float32) + 0.3
    rows_NM = (rows_NM * np.where(np.arange(n_rows) % DOCUMENT_ROWS == 0, 50, 1)[:, None]).astype(np.float32)
    if encoding == "bfloat16":
        return np.asarray((rows_NM.view(np.uint32) >> 16).astype(np.uint16))
    return rows_NM.astype(np.float16 if encoding == "float16" else np.float32)  # the writer makes int8 of float32


def plan_store(path: Path, n_rows: int = 1000, sites: dict[str, int] | None = None, **options: Any) -> Plan:
    """A planned, unfilled store: small chunks and units; the last tenth of the documents is held out."""
    sites = sites or {"blocks.1.hook_resid_post": 16}
    encoding = options.pop("encoding", "float32")
    sizes = layout(sites, encoding, options.pop("chunk_bytes", 2048), options.pop("shard_bytes", 16384))
    heldout = min(max(n_rows // DOCUMENT_ROWS * 9 // 10, 1) * DOCUMENT_ROWS, n_rows)
    fields = token_map(n_rows)
    blocks = ({name: array[first : first + 300] for name, array in fields.items()} for first in range(0, n_rows, 300))
    return create_store(
        path,
        blocks,
        {word: Token(f" w{word}".encode() if word else b"<bos>", special=not word) for word in range(N_WORDS)},
        n_rows=n_rows,
        n_documents=-(-n_rows // DOCUMENT_ROWS),
        splits={"train": (0, heldout), "heldout": (heldout, n_rows)},
        sites=sites,
        encoding=encoding,
        compressor=options.pop("compressor", "none"),
        rows_per_chunk=sizes.rows_per_chunk,
        rows_per_unit=sizes.rows_per_unit,
        config=options.pop("config", {}),
        provenance=options.pop("provenance", {}),
        calibration=sample_spans((0, heldout), 16) if encoding == "int8" else None,
        **options,
    )


def fill_unit(files: FileSystem, path: Path, plan: Plan, unit: int, rows: dict[str, np.ndarray]) -> bool:
    """Fill and commit one unit from whole-store arrays, in uneven pieces. Returns whether this attempt won."""
    start, stop = plan.unit_rows(unit)
    if not is_calibrated(path, plan):
        spans = plan.calibration
        sample = {site: [to_float32(rows_NM[a:b]) for a, b in spans] for site, rows_NM in rows.items()}
        commit_calibration(files, path, plan, {site: np.concatenate(parts) for site, parts in sample.items()})
    flags_N = token_map(plan.n_rows)["flags"][start:stop]
    writer = UnitWriter(files, path, plan, unit, flags_N, committed_columns(path, plan))
    for site, rows_NM in rows.items():
        for first in range(start, stop, 50):
            writer.append(site, rows_NM[first : min(first + 50, stop)])
    return writer.commit()


def fill_missing(
    files: FileSystem,
    path: Path,
    plan: Plan,
    rows: dict[str, np.ndarray],
    filled: Callable[[int], None] = lambda unit: None,
) -> None:
    """Fill and commit every unit that is missing; `filled` is told of each afterwards."""
    units = UnitQueue(files, path, plan)
    while (unit := units.take()) is not None:
        try:
            fill_unit(files, path, plan, unit.number, rows)
            filled(unit.number)
            unit.done()
        finally:
            unit.give_back()


def build_store(path: Path, n_rows: int = 1000, sites: dict[str, int] | None = None, **options: Any) -> Path:
    """A finished store of `stored_rows`."""
    plan = plan_store(path, n_rows, sites, **options)
    rows = {site: stored_rows(site, n_rows, d_model, plan.encoding) for site, d_model in plan.sites.items()}
    files = FileSystem()
    fill_missing(files, path, plan, rows)
    finish_store(files, path, plan)
    return path
