"""config.json of a trained SAE: everything its bits depend on, and the refusal to mix two of them."""

from typing import Any

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs import changed_keys, fingerprint
from strata_sae.pipeline.trainer.groups import Job
from strata_sae.pipeline.trainer.scaling import Scaling, parts
from strata_sae.stores.front.aligned import Together

Record = dict[str, Any]

NOT_IDENTITY = ("checkpoint_every_steps", "sites", "shared_windows", "memory_bytes")
"""Training settings that cannot change the result of a job; all others may not change once it has begun."""


def record_of(job: Job, route: Route, stores: Together, scaling: Scaling) -> Record:
    """The resolved config of a job and its fingerprint: plain data. `store_id` is of the first site that is read."""
    store = stores.at(route.reads[0])
    resampling = job.variant.resampling
    record = {
        "variant": job.variant_name,
        "site": job.site,
        "seed": job.seed,
        "sae": job.variant.sae.model_dump(mode="json"),
        "objective": {name: term.model_dump(mode="json") for name, term in job.variant.objective.items()},
        "training": job.training.model_dump(mode="json", exclude=set(NOT_IDENTITY)),
        "resampling": None if resampling is None else resampling.model_dump(mode="json"),
        "store_id": store.id,
        "plan_id": store.plan.id,
        "d_model": route.d_out(stores.sites),
        "input_scale": scaling.codes,
    }
    if not route.is_sae:
        record |= {
            "reads": parts(route.reads, scaling.reads, stores.sites),
            "writes": parts(route.writes, scaling.writes, stores.sites),
            "d_in": route.d_in(stores.sites),
            "store_ids": {site: stores.at(site).id for site in route.sites},
        }
    return {**record, "fingerprint": fingerprint(record)}


def refuse_change(found: Any, wanted: Record, where: str) -> None:
    """Raises: CheckpointError naming every key in which `found` is another SAE's record than `wanted`."""
    if found == wanted:
        return
    old = {key: value for key, value in found.items() if key != "fingerprint"} if isinstance(found, dict) else found
    new = {key: value for key, value in wanted.items() if key != "fingerprint"}
    changes = "; ".join(changed_keys(old, new)) or "fingerprint does not belong to the rest (edited by hand?)"
    raise CheckpointError(
        f"{where} was made by another config ({changes}); give the changed variant another name, "
        "or delete its folder to train it again from step 0"
    )
