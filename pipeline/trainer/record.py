"""config.json of a trained SAE: everything its bits depend on, and the refusal to mix two of them."""

from typing import Any

from pipeline.artifacts import changed_keys, fingerprint
from pipeline.config.training import TrainingSettings
from pipeline.errors import CheckpointError
from pipeline.trainer.groups import Job

Record = dict[str, Any]

NOT_IDENTITY = ("checkpoint_every_steps", "sites", "shared_windows")
"""Training settings that cannot change the result of a job; all others may not change once it has begun."""
INHERITED = ("learning_rate", "batch_size")
"""Training settings that a variant may override; their resolved values stand beside the job's seed."""


def record_of(
    job: Job, training: TrainingSettings, *, store_id: str, plan_id: str, d_model: int, input_scale: float
) -> Record:
    """The resolved config of a job and its fingerprint: plain data."""
    record = {
        "variant": job.variant_name,
        "site": job.site,
        "seed": job.seed,
        "batch_size": job.batch_size,
        "learning_rate": job.learning_rate,
        "sae": job.variant.sae.model_dump(mode="json"),
        "objective": {name: term.model_dump(mode="json") for name, term in job.variant.objective.items()},
        "training": training.model_dump(mode="json", exclude=set(NOT_IDENTITY + INHERITED)),
        "store_id": store_id,
        "plan_id": plan_id,
        "d_model": d_model,
        "input_scale": input_scale,
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
