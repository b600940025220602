"""How many passes a group takes: variants that do not fit into memory together are trained one lot after the other.

Whoever shares a pass changes nothing, so the lots may differ from one call to the next.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.trainer.groups import Group, Job
from strata_sae.pipeline.trainer.pending import Pending

log = logging.getLogger(__name__)


def in_passes(
    pending: Pending, budget_bytes: int, needed_bytes: Callable[[Group], int], most_bytes: int
) -> list[Pending]:
    """The jobs in order, as many in each pass as the budget allows, at least one.

    Raises: ConfigError if a job alone needs more than `most_bytes`, all that the machine has.
    """
    lots: list[list[Job]] = []
    for job in pending.group.jobs:
        if lots and needed_bytes(replace(pending.group, jobs=(*lots[-1], job))) <= budget_bytes:
            lots[-1].append(job)
        else:
            lots.append([job])
    parts = [_part(pending, tuple(lot)) for lot in lots]
    for part in parts:
        needed = needed_bytes(part.group)
        if needed > most_bytes:
            raise ConfigError(
                f"{part.group.jobs[0].name} needs about {needed / 1e9:.4g} GB of memory, and this machine has "
                f"{most_bytes / 1e9:.4g} GB; lower its sae.d_sae, training.batch_size or training.window_bytes"
            )
        if needed > budget_bytes:
            log.warning(
                "%s needs about %.2f GB, more than the %.2f GB that it may take (training.memory_bytes); trying",
                part.group.jobs[0].name,
                needed / 1e9,
                budget_bytes / 1e9,
            )
    if len(parts) > 1:
        log.info(
            "%s: %d passes over the store, since all %d variants need about %.2f GB and %.2f GB may be used",
            pending.group.site,
            len(parts),
            len(pending.group.jobs),
            needed_bytes(pending.group) / 1e9,
            budget_bytes / 1e9,
        )
    return parts


def _part(pending: Pending, jobs: tuple[Job, ...]) -> Pending:
    kept = [entry for entry in pending.jobs if entry[0] in jobs]
    return replace(pending, group=replace(pending.group, jobs=jobs), jobs=kept)
