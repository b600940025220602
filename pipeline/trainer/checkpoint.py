"""Resumable states: checkpoints/step_00000500/{state.safetensors, state.json}, whole or absent, checked when read."""

import hashlib
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.chain import UNHASHED
from strata_sae.pipeline.runs.migration import migrated_keys
from strata_sae.pipeline.runs.record_files import read_record, write_record
from strata_sae.pipeline.runs.records import SAERecord, State
from strata_sae.pipeline.trainer.jobs import refuse_change
from strata_sae.stores.files.filesystem import make_folder, publish_folder, remove_folder, remove_staged, staging_path
from strata_sae.stores.files.hashing import file_sha256

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
"""Newest checkpoints that are kept (count): one of them may be damaged."""
TENSORS = "state.safetensors"


def name_of(step: int) -> str:
    """Folder of the checkpoint after `step` updates."""
    return f"step_{step:08d}"


class Prefix(NamedTuple):
    """The beginning of a file: how long it is, and the hash of what it holds."""

    n_bytes: int
    sha256: str


def prefix_of(path: Path, n_bytes: int) -> Prefix:
    """The first `n_bytes` of a file, or as much of them as there is; a missing file is empty."""
    try:
        data = path.read_bytes()[:n_bytes]
    except FileNotFoundError:
        data = b""
    return Prefix(len(data), hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that is learnt or remembered after `step` updates."""

    step: int
    tensors: dict[str, Tensor]
    curves: Prefix
    """curves.jsonl up to this step; later lines are written again."""


def save(folder: Path, checkpoint: Checkpoint, record: SAERecord) -> None:
    """Publish a checkpoint in `folder`, then delete all but the newest. One that is there already and whole stays."""
    target = folder / name_of(checkpoint.step)
    make_folder(folder)
    if target.exists():
        try:
            _read(target)
            return
        except DamagedCheckpoint:
            remove_folder(target)
    staged = staging_path(target)
    try:
        staged.mkdir()
        _write(staged, checkpoint, record)
        publish_folder(staged, target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)  # on a full disk it would take the room that the next attempt needs
        raise
    for old in _published(folder)[KEPT_CHECKPOINTS:]:
        remove_folder(old)


def _write(staged: Path, checkpoint: Checkpoint, record: SAERecord) -> None:
    """The two files of a checkpoint. Raises: OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    try:
        safetensors.torch.save_file(tensors, staged / TENSORS)  # from the tensors' own memory: no copy of a large state
    except safetensors.SafetensorError as error:
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(staged / TENSORS)) from None
    state = State(
        step=checkpoint.step,
        curves_bytes=checkpoint.curves.n_bytes,
        curves_sha256=checkpoint.curves.sha256,
        config=record,
        sha256=file_sha256(staged / TENSORS),
    )
    write_record(staged / "state.json", state)


def newest(folder: Path, record: SAERecord, curves: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none at all.

    Raises: CheckpointError if every checkpoint is damaged, or if one belongs to another config or store.
    """
    remove_staged(folder)
    published = _published(folder)
    damages = []
    for path in published:
        try:
            state = _read(path)
            prefix = _check_curves(curves, state, path.name)
            refuse_change(state.config, record, str(path))
        except DamagedCheckpoint as damage:
            log.warning("%s; falling back to an older checkpoint", damage)
            damages.append(str(damage))
            continue
        return Checkpoint(
            step=state.step, tensors=migrated_keys(safetensors.torch.load_file(path / TENSORS), TENSORS), curves=prefix
        )
    if published:
        raise CheckpointError(
            f"{folder}: every checkpoint is damaged ({'; '.join(damages)}); "
            f"delete {folder.parent} to train this variant again from step 0"
        )
    return None


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose bytes are not those that were written."""


def _read(path: Path) -> State:
    """state.json of a checkpoint. Raises: DamagedCheckpoint if it, or the tensors beside it, are not whole."""
    try:
        state, is_hashed = read_record(path / "state.json", State)
        whole = is_hashed and state.sha256 == file_sha256(path / TENSORS)
    except (CheckpointError, OSError) as error:
        raise DamagedCheckpoint(f"{path}: {error}") from error
    if not whole:
        raise DamagedCheckpoint(f"{path}: its files differ from the checksums written with them")
    if state.step != _step(path):
        raise DamagedCheckpoint(f"{path}: it is the checkpoint of step {state.step}")
    return state


def _check_curves(curves: Path, state: State, name: str) -> Prefix:
    """The curves up to a checkpoint. Raises: DamagedCheckpoint if they are not those that it was written with."""
    prefix = prefix_of(curves, state.curves_bytes)
    if prefix.n_bytes < state.curves_bytes:
        raise DamagedCheckpoint(f"{curves}: {prefix.n_bytes} bytes, {name} needs {state.curves_bytes}")
    if state.curves_sha256 is None:
        log.info("%s: %s was %s", curves, name, UNHASHED)
    elif prefix.sha256 != state.curves_sha256:
        raise DamagedCheckpoint(f"{curves}: sha256 {prefix.sha256[:16]} is not what {name} was written with")
    return prefix


def _published(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    steps = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name)]
    return sorted(steps, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
