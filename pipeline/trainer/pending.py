"""What a group still has to train, once the finished is recognised and the changed refused."""

import logging
from dataclasses import dataclass, replace

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.runs import RunFolder, VariantFolder
from strata_sae.pipeline.runs.records import SAERecord
from strata_sae.pipeline.trainer.groups import Group, Job
from strata_sae.pipeline.trainer.record import record_of
from strata_sae.pipeline.trainer.scaling import Scaling, scaling
from strata_sae.pipeline.trainer.session import is_done
from strata_sae.stores import Filters
from strata_sae.stores.front.aligned import Together
from strata_sae.stores.serving.batches import joint_mask

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A group's unfinished jobs, and how its rows are read and scaled."""

    group: Group
    """Without the jobs that are finished."""
    jobs: list[tuple[Job, VariantFolder, SAERecord]]
    filters: Filters
    scaling: Scaling
    """What rows are multiplied by, so that E||x||^2 = 1: the same for every variant, folded into the final weights."""


def pending(group: Group, stores: Together, run: RunFolder) -> Pending:
    """Look at the folders of a group. Raises: CheckpointError if one holds another SAE; ConfigError on too few rows."""
    filters = Filters(**group.jobs[0].training.filters.model_dump())
    mask = joint_mask([(stores.at(site), site) for site in group.route.sites], "train", filters)
    mean_squares = {site: stores.at(site).mean_square_norm(site, "train", filters, mask) for site in group.route.sites}
    for site, mean_square in mean_squares.items():
        if not 0 < mean_square < float("inf"):
            raise ConfigError(f"{site}: E||x||^2 of the training rows is {mean_square}; check training.filters")
    scales = scaling(group.route, mean_squares)
    if group.batch_size > (n_rows := mask.n_rows):
        raise ConfigError(
            f"training.batch_size: a batch of {group.batch_size} rows is larger than the training split of "
            f"{group.site}, which has {n_rows} rows after training.filters; lower it, or extract more tokens"
        )
    unfinished: list[tuple[Job, VariantFolder, SAERecord]] = []
    for job in group.jobs:
        folder = run.variant(job.name)
        record = record_of(job, group.route, stores, scales)
        if is_done(folder, record):
            log.info("%s: trained already, skipped", job.name)
        else:
            unfinished.append((job, folder, record))
    rest = replace(group, jobs=tuple(job for job, _, _ in unfinished))
    return Pending(group=rest, jobs=unfinished, filters=filters, scaling=scales)
