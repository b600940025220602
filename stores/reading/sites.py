"""The arrays of every site of a store, as rows and norms."""

from strata_sae.stores.files.places import Place
from strata_sae.stores.format.arrays import ARRAYS
from strata_sae.stores.format.plan import Plan
from strata_sae.stores.format.shard_records import ShardRecords
from strata_sae.stores.reading.array import StoredArray
from strata_sae.stores.reading.columns import read_columns
from strata_sae.stores.reading.norm_check import NormCheckedRows
from strata_sae.stores.reading.site_rows import PlainRows, PlanedRows, QuantisedRows, SiteRows


def site_rows(place: Place, plan: Plan, records: dict[str, ShardRecords]) -> dict[str, tuple[SiteRows, StoredArray]]:
    """Rows and norms of every site. `records`: what every array's shards must be, by the array's path."""
    columns = read_columns(place, plan, records)
    found: dict[str, tuple[SiteRows, StoredArray]] = {}
    for site, specs in plan.site_specs.items():
        arrays = {name: StoredArray(place, spec, records[spec.path]) for name, spec in specs.items()}
        if plan.encoding == "int8":
            rows: SiteRows = QuantisedRows(arrays, columns[site])
        else:
            rows = PlanedRows(arrays) if plan.compressor == "planes" else PlainRows(arrays)
        if plan.version == 1:
            captured = plan.lineage is None or plan.lineage["kind"] == "sibling"
            rounded = plan.encoding == "int8" or not captured
            where = f"{place.name}/{ARRAYS}/sites/{site}"
            rows = NormCheckedRows(rows, arrays["norm"], rounded=rounded, where=where)
        found[site] = rows, arrays["norm"]
    return found
