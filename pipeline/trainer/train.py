"""Stage 2: an activation store -> one trained SAE per variant and site, without the language model."""

import logging
from pathlib import Path

import torch

from pipeline.artifacts import RunFolder, changed_keys, environment, only_writer, read_json, write_bytes, write_json
from pipeline.config.loading import dump
from pipeline.config.run import RunConfig
from pipeline.config.stored import open_store
from pipeline.errors import ConfigError
from pipeline.rows import choose_device
from pipeline.trainer.groups import describe, expand, group
from pipeline.trainer.memory import checkpoint_bytes, memory_bytes
from pipeline.trainer.one_pass import train_group
from pipeline.trainer.pending import Pending, pending
from stores.together import Together

log = logging.getLogger(__name__)


def train(config: RunConfig, *, stage: Path | None = None, report_progress: bool = True) -> None:
    """Train every variant at every site; what is finished is skipped, what was interrupted goes on.

    Args:
        stage: a folder on a near disk, to which what is read of the store is copied first.
    Raises: StoreError, ConfigError, CheckpointError.

    """
    training = config.training
    store = open_store(config, stage)
    run = RunFolder(config.run_path())
    device = choose_device(training.device)
    groups = group(expand(config, _sites(config, store)))
    with only_writer(run.path):
        todo = [part for part in (pending(some, store.at(some.site), run, training) for some in groups) if part.jobs]
        write_bytes(run.config, dump(config).encode("utf-8"))
        if todo:
            _note_environment(run, device)
            _announce(todo, store, config)
        for part in todo:
            train_group(part, store.at(part.group.site), training, device, show_progress=report_progress)


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
        for change in changed_keys(read_json(run.environment), now):
            log.warning("%s: environment %s; results may differ in the last bits", run.path, change)
    write_json(run.environment, now)


def _announce(todo: list[Pending], store: Together, config: RunConfig) -> None:
    """What is about to be trained together, and what it takes."""
    for line in describe([part.group for part in todo]):
        log.info("%s", line)
    memory = disk = 0
    for part in todo:
        site = part.group.site
        plan = store.at(site).plan
        d_model, row_bytes, n_rows = plan.sites[site], plan.bytes_per_row(site), plan.n_rows
        needed = memory_bytes(part.group, config.training, d_model=d_model, row_bytes=row_bytes, n_rows=n_rows)
        memory = max(memory, needed)
        disk = max(disk, checkpoint_bytes(part.group, d_model=d_model))
    log.info("needs about %.2f GB of memory, and %.2f GB of disk for checkpoints", memory / 1e9, disk / 1e9)
