"""What training does in a run folder before its first update: records, announcements, and whether there is room."""

import logging
import os
from contextlib import suppress
from pathlib import Path

import torch

from strata_sae.pipeline.config.loading import dump
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.reading.outlier_norms import outlier_norms
from strata_sae.pipeline.runs.claims import trained_now
from strata_sae.pipeline.runs.environment import Environment, environment
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.record_files import changed_keys, read_record, read_yaml, write_record, write_yaml
from strata_sae.pipeline.strict_yaml import Yaml, parse
from strata_sae.pipeline.trainer.jobs import NOT_IDENTITY, never_dead
from strata_sae.pipeline.trainer.passes import Pass, announcement, disk_bytes
from strata_sae.stores import Together
from strata_sae.stores.files.filesystem import missing_space

log = logging.getLogger(__name__)


def write_config(run: RunFolder, config: TrainConfig) -> None:
    """Record the config of a run. Of two that begin at the same moment the later one's stays.

    Raises: CheckpointError while another process trains there by a config that says something else of the same SAEs.
    """
    text, names = dump(config), trained_now(run)
    if names and run.config.exists():
        theirs, ours = _of_saes(read_yaml(run.config)[0]), _of_saes(text)
        if changes := [
            line for key in theirs.keys() & ours.keys() for line in changed_keys(theirs[key], ours[key], key)
        ]:
            raise CheckpointError(
                f"{run.path}: another process trains {', '.join(names[:10])} there by another config "
                f"({'; '.join(changes[:10])}); wait for it, or give this run another name"
            )
    write_yaml(run.config, text)


def _of_saes(text: str) -> dict[str, Yaml]:
    """Of a config what decides its SAEs, by key, and by name of the variant."""
    data = parse(text, "config.yaml")[0]
    assert isinstance(data, dict)
    training, variants = data["training"], data["variants"]
    assert isinstance(training, dict)
    assert isinstance(variants, dict)
    kept: Yaml = {key: value for key, value in training.items() if key not in NOT_IDENTITY}
    return {"seed": data["seed"], "training": kept} | {f"variants.{name}": value for name, value in variants.items()}


def announce(passes: list[Pass], config: TrainConfig, stores: Together, run: RunFolder, n_at_once: int = 1) -> None:
    """Announce the passes with their warnings, and check that their files find room.

    n_at_once: passes that are made at the same time (count).
    Raises: CheckpointError if the run folder's disk lacks room.
    """
    for line in announcement(passes, stores):
        log.info("%s", line)
    _check_space(run, passes, n_at_once)
    if uneven := outlier_norms(config, stores):
        log.warning("%s", uneven)
    for line in never_dead(job for pass_ in passes for job in pass_.jobs):
        log.warning("%s", line)


def note_environment(run: RunFolder, device: torch.device) -> None:
    """Record what bits depend on besides config and store, and log what changed in it since the last call."""
    now = environment(device=device.type, torch_threads=torch.get_num_threads())
    if run.environment.exists():
        before = read_record(run.environment, Environment).record
        for change in changed_keys(before.model_dump(mode="json"), now.model_dump(mode="json")):
            log.warning("%s: environment %s; results may differ in the last bits", run.path, change)
    write_record(run.environment, now)


def _check_space(run: RunFolder, passes: list[Pass], n_at_once: int) -> None:
    """Raises: CheckpointError if the run folder's disk lacks room for what is not there yet."""
    there = sum(_tensor_bytes(job.folder.checkpoints) for pass_ in passes for job in pass_.jobs)
    if problem := missing_space(run.path, disk_bytes(passes, n_at_once) - there):
        raise CheckpointError(
            f"{run.path}: training {problem} for checkpoints and weights; free some, train fewer variants at once "
            "(--only, or a lower training.memory_bytes), or raise training.checkpoint_every_steps to n_steps"
        )


def _tensor_bytes(folder: Path) -> int:
    """Of the tensors that lie there; what another process removes meanwhile is left out."""
    sizes = 0
    for where, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".safetensors"):
                with suppress(FileNotFoundError):
                    sizes += os.stat(os.path.join(where, name)).st_size
    return sizes
