"""Stage 2: an activation store -> one trained SAE per variant and site, without the language model."""

import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from strata_sae.pipeline.available import free_bytes, total_bytes
from strata_sae.pipeline.config.loading import dump
from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.kernels.break_even import measured_break_even
from strata_sae.pipeline.reading.outlier_norms import outlier_norms
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs import (
    RunFolder,
    changed_keys,
    environment,
    only_writer,
    read_record,
    write_record,
    write_yaml,
)
from strata_sae.pipeline.runs.records import Environment
from strata_sae.pipeline.tensors import choose_device
from strata_sae.pipeline.trainer.feed import capped_window
from strata_sae.pipeline.trainer.groups import Group, Job, chosen, describe, expand, group, never_dead
from strata_sae.pipeline.trainer.memory import checkpoint_bytes, memory_bytes, weights_bytes
from strata_sae.pipeline.trainer.one_pass import train_group
from strata_sae.pipeline.trainer.passes import in_passes
from strata_sae.pipeline.trainer.pending import Pending, pending
from strata_sae.pipeline.trainer.table import table
from strata_sae.stores.front.aligned import Together

log = logging.getLogger(__name__)


def train(
    config: RunConfig, *, stage: Path | None = None, only: Sequence[str] = (), show_progress: bool = True
) -> None:
    """Train every variant at every site; what is finished is skipped, what was interrupted goes on.

    Args:
        stage: a folder on a near disk, to which what is read of the store is copied first.
        only: names or patterns (topk_*) of the variants to train now; none: all.
    Raises: StoreError, ConfigError, CheckpointError.

    """
    training = config.training
    store = open_store(config, stage)
    run = RunFolder(config.run_path())
    device = choose_device(training.device, "training.device")
    jobs = chosen(expand(config, _sites(config, store)), only)
    speeds: dict[str, float] = {}
    with only_writer(run.path):
        parts = _parts(jobs, config, store, device)
        write_yaml(run.config, dump(config))
        if parts:
            _note_environment(run, device)
            for line in _announcement(parts, store, config):
                log.info("%s", line)
            _check_space(run, parts, store)
            if uneven := outlier_norms(config, store):
                log.warning("%s", uneven)
        for line in never_dead(job for part in parts for job in part.group.jobs):
            log.warning("%s", line)
        for part in parts:
            speeds |= train_group(part, store, training, device, show_progress=show_progress)
    if parts:
        for line in table(run, jobs, speeds):
            log.info("%s", line)


def describe_training(config: RunConfig, only: Sequence[str] = ()) -> str:
    """What `train` would do: passes, variants, memory, disk. Reads the store, trains nothing. Raises: as `train`."""
    store = open_store(config)
    jobs = chosen(expand(config, _sites(config, store)), only)
    device = choose_device(config.training.device, "training.device")
    parts = _parts(jobs, config, store, device)
    left = sum(len(part.jobs) for part in parts)
    measured = _break_evens(parts, store, config, device)
    return "\n".join([f"{left} of {len(jobs)} SAEs are left to train", *_announcement(parts, store, config), *measured])


def _parts(jobs: list[Job], config: RunConfig, store: Together, device: torch.device) -> list[Pending]:
    """The passes over the store that are left to make."""
    run = RunFolder(config.run_path())
    budget = config.training.memory_bytes or free_bytes(device)
    unfinished = [pending(some, store, run) for some in group(jobs)]
    return [
        part
        for some in unfinished
        if some.jobs
        for part in in_passes(some, budget, partial(_needed_bytes, store=store, config=config), total_bytes(device))
    ]


def _sites(config: RunConfig, store: Together) -> list[str]:
    """The sites to train on. Raises: ConfigError if the store lacks one."""
    sites = config.training.sites or config.store.sites
    for site in sites:
        if site not in store.sites:
            raise ConfigError(
                f"training.sites: {site!r} is not in the store {store.path}, "
                f"which holds {', '.join(store.sites)}; extract it, or choose among these"
            )
    return sites


def _note_environment(run: RunFolder, device: torch.device) -> None:
    """Record what bits depend on besides config and store, and say so when it changed since the last call."""
    now = environment(device=device.type, torch_threads=torch.get_num_threads())
    if run.environment.exists():
        before = read_record(run.environment, Environment).record
        for change in changed_keys(before.model_dump(mode="json"), now.model_dump(mode="json")):
            log.warning("%s: environment %s; results may differ in the last bits", run.path, change)
    write_record(run.environment, now)


def _announcement(parts: list[Pending], store: Together, config: RunConfig) -> list[str]:
    """What is about to be trained together, and what it takes."""
    groups = [part.group for part in parts]
    memory = max((_needed_bytes(some, store, config) for some in groups), default=0)
    disk = _disk_bytes(parts, store)
    needs = f"needs about {memory / 1e9:.2f} GB of memory, and {disk / 1e9:.2f} GB of disk for checkpoints and weights"
    capped = (capped_window(part, store, config.training) for part in parts)
    return [*describe(groups), *filter(None, capped), needs]


def _disk_bytes(parts: list[Pending], store: Together) -> int:
    """The checkpoints of one pass, which are gone before the next, and the weights of all."""
    groups = [part.group for part in parts]
    checkpoints = max((checkpoint_bytes(some, **_widths(some, store)) for some in groups), default=0)
    return checkpoints + sum(weights_bytes(some, **_widths(some, store)) for some in groups)


def _check_space(run: RunFolder, parts: list[Pending], store: Together) -> None:
    """Raises: CheckpointError if the run folder's disk lacks room for what is not there yet."""
    there = [path for part in parts for _, folder, _ in part.jobs for path in folder.checkpoints.rglob("*.safetensors")]
    needed = _disk_bytes(parts, store) - sum(path.stat().st_size for path in there)
    free = shutil.disk_usage(run.path).free
    if needed > free:
        raise CheckpointError(
            f"{run.path}: training needs about {needed:,} bytes for checkpoints and weights, and its disk has {free:,} "
            "free; free some, train fewer variants at once (--only, or a lower training.memory_bytes), or raise "
            "training.checkpoint_every_steps to n_steps"
        )


def _break_evens(parts: list[Pending], store: Together, config: RunConfig, device: torch.device) -> list[str]:
    """For each shape, from which density on full matrices are quicker here: measured, about a second each."""
    shapes = {
        (part.group.batch_size, job.variant.sae.d_sae, _widths(part.group, store)["d_out"])
        for part in parts
        for job in part.group.jobs
    }
    used = f"training.break_even_density is {config.training.break_even_density:g}"
    return [
        f"B {shape[0]}, E {shape[1]}, M {shape[2]}: dense from a density of "
        f"{measured_break_even(*shape, device=device.type):.2g} on, as measured; {used}"
        for shape in sorted(shapes)
    ]


def _needed_bytes(some: Group, store: Together, config: RunConfig) -> int:
    plans = {site: store.at(site).plan for site in some.route.sites}
    row_bytes = sum(plan.bytes_per_row(site) for site, plan in plans.items())
    n_rows = plans[some.route.reads[0]].n_rows
    return memory_bytes(some, config.training, **_widths(some, store), row_bytes=row_bytes, n_rows=n_rows)


def _widths(some: Group, store: Together) -> dict[str, int]:
    return {"d_out": some.route.d_out(store.sites), "d_in": some.route.d_in(store.sites)}
