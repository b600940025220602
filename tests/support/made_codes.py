"""Small codes stores of made-up codes: three segments of 500 rows, of which the last is shorter."""

from pathlib import Path

import numpy as np

from strata_sae.stores import CodesPlan, SegmentCodes, create_codes, finish_codes, missing_segments, write_segment
from strata_sae.stores.files.filesystem import FileSystem

N_ROWS, ROWS_PER_SEGMENT, D_SAE = 1234, 500, 40
SILENT, DENSE = 7, 3
"""A latent that is never active, and one that always is."""


def made_plan(**changes: object) -> CodesPlan:
    """The plan of the codes."""
    fields = {
        "store_ids": {"blocks.1.hook_resid_post": "a" * 64},
        "plan_id": "b" * 64,
        "sae": "c" * 64,
        "weights_sha256": "d" * 64,
        "site": "blocks.1.hook_resid_post",
        "encoder": "float32",
        "d_sae": D_SAE,
        "n_rows": N_ROWS,
        "rows_per_segment": ROWS_PER_SEGMENT,
    }
    return CodesPlan(**fields | changes)  # type: ignore[arg-type]


def dense_codes(plan: CodesPlan, seed: int = 0) -> np.ndarray:
    """Codes of all rows, float32 [N, E]: about one in eight is active; rows 600 to 609 are silent."""
    rng = np.random.default_rng(seed)
    values_NE = rng.standard_normal((plan.n_rows, plan.d_sae)).astype(np.float32)
    active_NE = rng.random(values_NE.shape) < 0.12
    active_NE[:, DENSE] = True
    active_NE[600:610] = False
    active_NE[:, SILENT] = False
    return np.where(active_NE, values_NE, np.float32(0))


def codes_of(dense_RE: np.ndarray) -> SegmentCodes:
    """The codes of a segment from its dense ones."""
    row, latent = np.nonzero(dense_RE)
    latent_of, row_of = np.nonzero(dense_RE.T)
    return SegmentCodes(
        _offsets(row, dense_RE.shape[0]),
        latent.astype(np.uint32),
        _offsets(latent_of, dense_RE.shape[1]),
        row_of.astype(np.uint32),
        np.ascontiguousarray(dense_RE[row_of, latent_of], np.float32),
    )


def _offsets(stretch: np.ndarray, n_stretches: int) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(stretch, minlength=n_stretches))])


def segment_codes(plan: CodesPlan, segment: int) -> SegmentCodes:
    """The codes of a segment of `dense_codes`."""
    start, stop = plan.segment_rows(segment)
    return codes_of(dense_codes(plan)[start:stop])


def made_table(plan: CodesPlan) -> dict[str, np.ndarray]:
    """A table of two arrays."""
    dense_NE = dense_codes(plan)
    return {
        "count_all": (dense_NE != 0).sum(axis=0).astype(np.int64),
        "histogram": np.arange(plan.d_sae * 40, dtype=np.uint32).reshape(plan.d_sae, 40),
    }


def make_codes(folder: Path, plan: CodesPlan | None = None, files: FileSystem | None = None) -> CodesPlan:
    """Make a codes store, or go on with one, from its beginning to its end."""
    plan = plan or made_plan()
    create_codes(folder, plan, files=files)
    for segment in missing_segments(folder, plan):
        write_segment(folder, plan, segment, segment_codes(plan, segment), files=files)
    finish_codes(folder, plan, made_table(plan), files=files)
    return plan
