"""The columns of an int8 store, read and checked."""

from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError
from strata_sae.stores.files.places import LocalPlace, Place
from strata_sae.stores.format.commits import CALIBRATION, commit_path, read_commit
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.quantisation import Columns
from strata_sae.stores.format.shard_records import ShardRecords, shard_records
from strata_sae.stores.reading.array import StoredArray


def is_calibrated(store: Path, plan: Plan) -> bool:
    """Whether units may be filled: the columns are committed, or the encoding needs none."""
    return plan.encoding != "int8" or commit_path(store, plan, CALIBRATION).exists()


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
