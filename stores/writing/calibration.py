"""The columns of an int8 store: computed once from the plan's calibration rows, and committed before any unit."""

from pathlib import Path

import numpy as np

from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.format.commits import CALIBRATION
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.quantisation import Columns, calibrate
from strata_sae.stores.writing.units import Commit

SPANS, ROWS_PER_SPAN = 32, 256
"""A plan without a reason for another sample takes this many spans of this many rows, evenly over the split."""


def sample_spans(split: tuple[int, int], rows_per_span: int = ROWS_PER_SPAN) -> list[list[int]]:
    """Row ranges spread evenly over a split, on multiples of `rows_per_span` from its start."""
    start, stop = split
    n_pieces = max(1, (stop - start) // rows_per_span)
    chosen = sorted({int(piece) for piece in np.linspace(0, n_pieces - 1, min(SPANS, n_pieces))})
    spans = [[start + piece * rows_per_span, start + (piece + 1) * rows_per_span] for piece in chosen]
    return [[first, min(last, stop)] for first, last in spans]


def commit_calibration(files: FileSystem, store: Path, plan: Plan, sample: dict[str, np.ndarray]) -> None:
    """Compute a site's columns from its calibration rows (float32 [N, M], in plan order) and commit them.

    Whoever commits first decides for all; later ones change nothing.
    """
    commit_columns(files, store, plan, {site: calibrate(rows_NM) for site, rows_NM in sample.items()})


def commit_columns(files: FileSystem, store: Path, plan: Plan, columns: dict[str, Columns]) -> None:
    """Commit columns that are known already, such as a parent's."""
    commit = Commit(files, store, plan, CALIBRATION)
    try:
        for site, specs in plan.column_specs.items():
            for name, spec in specs.items():
                value = columns[site].offset if name == "column_offset" else columns[site].scale
                commit.writer(site, name, spec).append(np.ascontiguousarray(value, np.float32))
        commit.commit({})
    finally:
        commit.close()
