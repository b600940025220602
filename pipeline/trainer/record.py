"""config.json of a trained SAE: everything its bits depend on, and the refusal to mix two of them."""

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs import changed_keys
from strata_sae.pipeline.runs.record_files import with_fingerprint
from strata_sae.pipeline.runs.records import ResamplingPart, SAEPart, SAERecord, TermPart, TrainingPart
from strata_sae.pipeline.trainer.groups import Job
from strata_sae.pipeline.trainer.scaling import Scaling, parts
from strata_sae.stores.front.aligned import Together

NOT_IDENTITY = ("checkpoint_every_steps", "sites", "shared_windows", "memory_bytes")
"""Training settings that cannot change the result of a job; all others may not change once it has begun."""


def record_of(job: Job, route: Route, stores: Together, scaling: Scaling) -> SAERecord:
    """The resolved config of a job and its fingerprint."""
    store, variant, resampling = stores.at(route.reads[0]), job.variant, job.variant.resampling
    record = SAERecord(
        variant=job.variant_name,
        site=job.site,
        seed=job.seed,
        sae=SAEPart.model_validate(variant.sae.model_dump(mode="json")),
        objective={
            name: TermPart.model_validate(term.model_dump(mode="json")) for name, term in variant.objective.items()
        },
        training=TrainingPart.model_validate(job.training.model_dump(mode="json", exclude=set(NOT_IDENTITY))),
        resampling=None if resampling is None else ResamplingPart.model_validate(resampling.model_dump(mode="json")),
        store_id=store.id,
        plan_id=store.plan.id,
        d_out=route.d_out(stores.sites),
        d_in=None if route.is_sae else route.d_in(stores.sites),
        input_scale=scaling.codes,
        reads=[] if route.is_sae else parts(route.reads, scaling.reads, stores.sites),
        writes=[] if route.is_sae else parts(route.writes, scaling.writes, stores.sites),
        store_ids={} if route.is_sae else {site: stores.at(site).id for site in route.sites},
        fingerprint="",
    )
    return with_fingerprint(record)


def refuse_change(found: SAERecord, wanted: SAERecord, where: str) -> None:
    """Raises: CheckpointError naming every key in which `found` is another SAE's record than `wanted`.

    The fingerprint is not compared: that of a record of an older version was made by that version's rule.
    """
    old, new = (record.model_dump(mode="json", exclude={"fingerprint"}) for record in (found, wanted))
    if changes := changed_keys(old, new):
        raise CheckpointError(
            f"{where} was made by another config ({'; '.join(changes)}); give the changed variant another name, "
            "or delete its folder to train it again from step 0"
        )
