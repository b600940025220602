"""What a group still has to train, once the finished is recognised and the changed refused."""

import logging
from dataclasses import dataclass, replace

from pipeline.artifacts import RunFolder, VariantFolder
from pipeline.config.training import TrainingSettings
from pipeline.errors import ConfigError
from pipeline.trainer.groups import Group, Job
from pipeline.trainer.record import Record, record_of
from pipeline.trainer.session import is_done
from stores import ActivationStore, Filters

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A group's unfinished jobs, and how its rows are read and scaled."""

    group: Group
    """Without the jobs that are finished."""
    jobs: list[tuple[Job, VariantFolder, Record]]
    filters: Filters
    input_scale: float
    """What rows are multiplied by, so that E||x||^2 = 1: the same for every variant, folded into the final weights."""


def pending(group: Group, store: ActivationStore, run: RunFolder, training: TrainingSettings) -> Pending:
    """Look at the folders of a group. Raises: CheckpointError if one holds another SAE; ConfigError on empty rows."""
    filters = Filters(**training.filters.model_dump())
    mean_square = store.mean_square_norm(group.site, "train", filters)
    if not 0 < mean_square < float("inf"):
        raise ConfigError(f"{group.site}: E||x||^2 of the training rows is {mean_square}; check training.filters")
    input_scale = mean_square**-0.5
    unfinished: list[tuple[Job, VariantFolder, Record]] = []
    for job in group.jobs:
        folder = run.variant(job.name)
        record = record_of(
            job,
            training,
            store_id=store.id,
            plan_id=store.plan.id,
            d_model=store.plan.sites[group.site],
            input_scale=input_scale,
        )
        if is_done(folder, record):
            log.info("%s: trained already, skipped", job.name)
        else:
            unfinished.append((job, folder, record))
    rest = replace(group, jobs=tuple(job for job, _, _ in unfinished))
    return Pending(group=rest, jobs=unfinished, filters=filters, input_scale=input_scale)
