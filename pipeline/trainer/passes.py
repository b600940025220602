"""How many passes a group takes: variants that do not fit into memory together are trained one lot after the other.

Whoever shares a pass changes nothing, so the lots may differ from one call to the next.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.trainer.groups import Group, Job
from pipeline.trainer.pending import Pending

log = logging.getLogger(__name__)


def in_passes(pending: Pending, budget_bytes: int, needed_bytes: Callable[[Group], int]) -> list[Pending]:
    """The jobs in order, as many in each pass as the budget allows, at least one."""
    lots: list[list[Job]] = []
    for job in pending.group.jobs:
        if lots and needed_bytes(replace(pending.group, jobs=(*lots[-1], job))) <= budget_bytes:
            lots[-1].append(job)
        else:
            lots.append([job])
    parts = [_part(pending, tuple(lot)) for lot in lots]
    for part in parts:
        if (needed := needed_bytes(part.group)) > budget_bytes:
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


def free_bytes(device: torch.device) -> int:
    """Memory that training may take now: of the device, or what the system and its control group leave (bytes)."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return available
    return available if limit == "max" else min(available, int(limit) - int(used))


def _part(pending: Pending, jobs: tuple[Job, ...]) -> Pending:
    kept = [entry for entry in pending.jobs if entry[0] in jobs]
    return replace(pending, group=replace(pending.group, jobs=jobs), jobs=kept)
