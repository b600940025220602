"""Resumable states: checkpoints/step_00000500/{state.safetensors, state.json}, whole or absent, checked when read."""

import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from pipeline.artifacts import (
    fingerprint,
    make_folder,
    publish_folder,
    read_json,
    remove_folder,
    remove_staged,
    sha256_of,
    staging_path,
    write_json,
)
from pipeline.errors import CheckpointError
from pipeline.trainer.record import Record, refuse_change

log = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints kept: one may be damaged."""


TENSORS = "state.safetensors"


def name_of(step: int) -> str:
    """Folder of the checkpoint after `step` updates."""
    return f"step_{step:08d}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that is learnt or remembered after `step` updates."""

    step: int
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]
    curves_bytes: int
    """Size of curves.jsonl at this step: what lies behind it is written again."""


def save(folder: Path, checkpoint: Checkpoint, record: Record) -> None:
    """Publish a checkpoint in `folder`, then drop all but the newest. One already there and whole stays."""
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
        shutil.rmtree(staged, ignore_errors=True)  # on a full disk it would lie in its own way
        raise
    for old in _published(folder)[KEPT:]:
        remove_folder(old)


def _write(staged: Path, checkpoint: Checkpoint, record: Record) -> None:
    """The two files of a checkpoint. Raises: OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    try:
        safetensors.torch.save_file(tensors, staged / TENSORS)  # from the tensors' own memory: no copy of a large state
    except safetensors.SafetensorError as error:
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(staged / TENSORS)) from None
    state = {
        "step": checkpoint.step,
        "scalars": checkpoint.scalars,
        "curves_bytes": checkpoint.curves_bytes,
        "config": record,
        "sha256": sha256_of(staged / TENSORS),
    }
    write_json(staged / "state.json", {**state, "self_sha256": fingerprint(state)})


def newest(folder: Path, record: Record, curves: Path) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none at all.

    Raises: CheckpointError if every checkpoint is damaged, or if one belongs to another config or store.
    """
    remove_staged(folder)
    published = _published(folder)
    for path in published:
        try:
            state = _read(path)
            size = curves.stat().st_size if curves.exists() else 0
            if size < state["curves_bytes"]:
                raise DamagedCheckpoint(f"{curves}: {size} bytes, {path.name} needs {state['curves_bytes']}")
            refuse_change(state["config"], record, str(path))
        except DamagedCheckpoint as damage:
            log.warning("%s; falling back to an older checkpoint", damage)
            continue
        return Checkpoint(
            step=state["step"],
            tensors=safetensors.torch.load_file(path / TENSORS),
            scalars=state["scalars"],
            curves_bytes=state["curves_bytes"],
        )
    if published:
        raise CheckpointError(
            f"{folder}: every checkpoint is damaged ({', '.join(path.name for path in published)}); "
            f"delete {folder.parent} to train this variant again from step 0"
        )
    return None


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose bytes are not those that were written."""


def _read(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint, once it and the tensors beside it are known to be whole."""
    try:
        state = read_json(path / "state.json")
        whole = state.pop("self_sha256") == fingerprint(state)
        whole = whole and state["sha256"] == sha256_of(path / TENSORS)
    except (CheckpointError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: {error}") from error
    if not whole:
        raise DamagedCheckpoint(f"{path}: its files differ from the checksums written with them")
    return state


def _published(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    steps = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name)]
    return sorted(steps, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)
