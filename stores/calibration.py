"""The columns of an int8 store: computed once from the plan's calibration rows, and committed before any unit."""

from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.filesystem import FileSystem
from strata_sae.stores.places import LocalPlace, Place
from strata_sae.stores.plan import Plan
from strata_sae.stores.quantisation import Columns, calibrate
from strata_sae.stores.shard_records import ShardRecords, shard_records
from strata_sae.stores.stored import StoredArray
from strata_sae.stores.units import CALIBRATION, Commit, commit_path, read_commit

SPANS, ROWS_PER_SPAN = 32, 256
"""A plan without a reason for another sample takes this many spans of this many rows, evenly over the split."""


def sample_spans(split: tuple[int, int], rows_per_span: int = ROWS_PER_SPAN) -> list[list[int]]:
    """Row ranges spread evenly over a split, on multiples of `rows_per_span` from its start."""
    start, stop = split
    n_pieces = max(1, (stop - start) // rows_per_span)
    chosen = sorted({int(piece) for piece in np.linspace(0, n_pieces - 1, min(SPANS, n_pieces))})
    spans = [[start + piece * rows_per_span, start + (piece + 1) * rows_per_span] for piece in chosen]
    return [[first, min(last, stop)] for first, last in spans]


def is_calibrated(store: Path, plan: Plan) -> bool:
    """Whether units may be filled: the columns are committed, or the encoding needs none."""
    return plan.encoding != "int8" or commit_path(store, plan, CALIBRATION).exists()


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


def read_columns(place: Place, plan: Plan, arrays: dict[str, ShardRecords]) -> dict[str, Columns]:
    """The columns of every site. `arrays`: what is known of their files, by array.

    Raises: StoreError if they are damaged, of another site, or not there.
    """
    return {site: _checked(place, site, plan, arrays) for site in plan.column_specs}


def committed_columns(store: Path, plan: Plan) -> dict[str, Columns]:
    """The columns of a store that is being filled. Raises: StoreError if they are not committed."""
    if plan.encoding != "int8":
        return {}
    record = read_commit(store, plan, CALIBRATION)
    if record is None:
        raise StoreError(f"{store}: its columns are not calibrated; run extract again")
    specs = [spec for site in plan.column_specs.values() for spec in site.values()]
    arrays = {spec.path: shard_records(plan.version, spec, record["files"]) for spec in specs}
    return read_columns(LocalPlace(store, mapped=True), plan, arrays)


def _checked(place: Place, site: str, plan: Plan, arrays: dict[str, ShardRecords]) -> Columns:
    specs = plan.column_specs[site]
    columns = Columns(
        *(
            np.array(StoredArray(place, specs[name], arrays[specs[name].path]).rows(0, plan.sites[site]))
            for name in ("column_offset", "column_scale")
        )
    )
    if not (np.isfinite(columns.offset).all() and np.isfinite(columns.scale).all() and (columns.scale > 0).all()):
        raise StoreError(f"{place.name}: site {site}: column_offset or column_scale is not a finite, positive number")
    return columns
