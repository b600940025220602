"""A sibling of a store: other sites of the same model at the same rows, so that the two can be read as one."""

from collections.abc import Sequence
from pathlib import Path

from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.filling import fill_and_finish, missing_units
from strata_sae.pipeline.extractor.provenance import model_changes, recorded_settings
from strata_sae.pipeline.language_model.loading import Description, describe
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import (
    MANIFEST,
    ActivationStore,
    PlanFields,
    StoreError,
    aligned,
    lineage_of,
    plan_derived_store,
    token_map_of,
)
from strata_sae.stores.files.canonical import Json, as_object
from strata_sae.stores.files.filesystem import FileSystem


def add_sites(
    store: Path, sites: Sequence[str], out: Path, *, model: ModelSettings | None = None, show_progress: bool = True
) -> ActivationStore:
    """Extract `sites` for the rows of a finished store into a store of their own at `out`, which names the first.

    Args:
        model: where the model is now; None: where the store's config says, which works for hub ids and relative paths.
    Raises: ConfigError if the model is not the one the store was made with; StoreError if the store's rows are no
        longer whole texts, or `out` holds something else.

    """
    base = ActivationStore.open(store)
    if base.plan.lineage is not None and not base.plan.lineage.order_id:
        raise StoreError(
            f"{store}: a {base.plan.lineage.kind} without the whole texts its rows come from; "
            f"add sites to the store it was made from ({base.plan.lineage.store_id[:12]})"
        )
    settings = model or recorded_settings(base.path, base.plan, {})
    description = describe(settings, sites)
    if changed := model_changes(base.plan, description.provenance):
        raise ConfigError(
            f"{store}: the model or its software is not what this store was made with: {'; '.join(changed)}. "
            f"Go back to what it was; rows of two models do not belong together"
        )
    n_rows = base.plan.n_rows
    plan = plan_derived_store(
        FileSystem(), out, _fields(base, description), n_rows, lambda: token_map_of(base, 0, n_rows)
    )
    # The token files must be equal to the byte: opening both stores together compares their hashes.
    if reason := aligned(base.plan, plan):
        raise StoreError(
            f"{out}: was planned from the tokens of {base.path}, but {reason}; "
            f"use the version of numcodecs that wrote those, and delete {out}"
        )
    if not (out / MANIFEST).is_file():
        missing_units(out, plan)
        fill_and_finish(settings, out, plan, Share(), show_progress=show_progress)
    return ActivationStore.open(out)


def _fields(base: ActivationStore, description: Description) -> PlanFields:
    plan = base.plan
    sites: dict[str, Json] = {"sites": list(description.widths)}
    return {
        "splits": plan.splits,
        "encoding": plan.encoding,
        "compressor": plan.compressor,
        "rows_per_chunk": plan.rows_per_chunk,
        "rows_per_unit": plan.rows_per_unit,
        "calibration": plan.calibration,
        "sites": description.widths,
        "config": plan.config | {"store": as_object(plan.config["store"]) | sites},
        "provenance": plan.provenance | {"model": description.provenance},
        "lineage": lineage_of("sibling", base, (0, plan.n_rows), plan.order_id),
    }
