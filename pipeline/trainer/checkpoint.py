"""Resumable states: checkpoints/step_00000500/{state.safetensors, state.json}, whole or absent, checked when read.

Where ranks hold an SAE together, each writes the rows of its latents (shards.py); any number of ranks reads either.
"""

import hashlib
import logging
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
from strata_sae.pipeline.runs.shard_records import ShardPart, Shards
from strata_sae.pipeline.sharding.ranks import ONE, Ranks
from strata_sae.pipeline.trainer.jobs import refuse_change
from strata_sae.pipeline.trainer.shards import gathered_hashes, held_tensors, name_of_shard, write_tensors
from strata_sae.stores.files.filesystem import (
    STAGED,
    make_folder,
    publish_folder,
    remove_folder,
    remove_staged,
    staging_path,
)
from strata_sae.stores.files.hashing import file_sha256

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2
"""Newest checkpoints that are kept (count): one of them may be damaged."""
TENSORS, SHARDS = "state.safetensors", "shards.json"


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
    if _is_there(target):
        return
    staged = staging_path(target)
    try:
        staged.mkdir()
        write_tensors(staged / TENSORS, checkpoint.tensors)
        _write_state(staged, checkpoint, record, TENSORS)
        publish_folder(staged, target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)  # on a full disk it would take the room that the next attempt needs
        raise
    for old in _published(folder)[KEPT_CHECKPOINTS:]:
        remove_folder(old)


def save_shard(folder: Path, checkpoint: Checkpoint, record: SAERecord, ranks: Ranks) -> None:
    """As `save`, by all ranks together: each writes what it holds, and the first one publishes all of it."""
    target = folder / name_of(checkpoint.step)
    staged = folder / f"{STAGED}{target.name}"  # a name that all know; only the ranks of this run write here
    is_there = ranks.rank == 0 and _is_there(target)
    if ranks.rank == 0 and not is_there:
        remove_staged(folder)
        staged.mkdir()
    if ranks.any(is_there):  # the others begin when the folder is there
        return
    own = staged / name_of_shard(ranks.rank, ranks.n)
    write_tensors(own, checkpoint.tensors)
    hashes = gathered_hashes(file_sha256(own), ranks)
    if ranks.rank == 0:
        held = [ranks.of(rank).latents(record.sae.d_sae) for rank in range(ranks.n)]
        parts = [
            ShardPart(first_latent=some.start, n_latents=len(some), sha256=sha256)
            for some, sha256 in zip(held, hashes, strict=True)
        ]
        write_record(staged / SHARDS, Shards(shards=parts))
        _write_state(staged, checkpoint, record, SHARDS)
        publish_folder(staged, target)
        for old in _published(folder)[KEPT_CHECKPOINTS:]:
            remove_folder(old)


def _is_there(target: Path) -> bool:
    """Whether this checkpoint is there already and whole; a damaged one is removed, and its folder is made."""
    make_folder(target.parent)
    if not target.exists():
        return False
    try:
        _read(target)
    except DamagedCheckpoint:
        remove_folder(target)
        return False
    return True


def _write_state(staged: Path, checkpoint: Checkpoint, record: SAERecord, hashed: str) -> None:
    """state.json, beside the file that it hashes."""
    state = State(
        step=checkpoint.step,
        curves_bytes=checkpoint.curves.n_bytes,
        curves_sha256=checkpoint.curves.sha256,
        config=record,
        sha256=file_sha256(staged / hashed),
    )
    write_record(staged / "state.json", state)


def state_sha256(path: Path) -> str:
    """The hash (hex) that state.json holds of a checkpoint: equal states that as many ranks hold have equal ones."""
    return file_sha256(path / (SHARDS if (path / SHARDS).exists() else TENSORS))


def newest(folder: Path, record: SAERecord, curves: Path, ranks: Ranks = ONE) -> Checkpoint | None:
    """The newest whole checkpoint, with the tensors that this one of the ranks holds; None if there is none at all.

    Raises: CheckpointError if every checkpoint is damaged, or if one belongs to another config or store.
    """
    if ranks.rank == 0:
        remove_staged(folder)
    published = _published(folder)
    damages = []
    for path in published:
        checked = _checked(path, curves, ranks)
        # Each rank reads a part of the files, and all must come to the same result.
        if ranks.any(isinstance(checked, DamagedCheckpoint)):
            damage = checked if isinstance(checked, DamagedCheckpoint) else f"{path}: another rank found it damaged"
            log.warning("%s; falling back to an older checkpoint", damage)
            damages.append(str(damage))
            continue
        assert not isinstance(checked, DamagedCheckpoint)
        state, prefix = checked
        refuse_change(state.config, record, str(path))
        return Checkpoint(step=state.step, tensors=_tensors(path, record, ranks), curves=prefix)
    if published:
        raise CheckpointError(
            f"{folder}: every checkpoint is damaged ({'; '.join(damages)}); "
            f"delete {folder.parent} to train this variant again from step 0"
        )
    return None


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose bytes are not those that were written."""


def _checked(path: Path, curves: Path, ranks: Ranks) -> tuple[State, Prefix] | DamagedCheckpoint:
    """state.json of a checkpoint and the curves up to it, or what is damaged."""
    try:
        state = _read(path, ranks)
        return state, _check_curves(curves, state, path.name)
    except DamagedCheckpoint as damage:
        return damage


def _tensors(path: Path, record: SAERecord, ranks: Ranks) -> dict[str, Tensor]:
    """What a rank holds of a checkpoint that is whole."""
    if (path / SHARDS).exists():
        parts = read_record(path / SHARDS, Shards).record.shards
        files = [
            (path / name_of_shard(number, len(parts)), range(part.first_latent, part.first_latent + part.n_latents))
            for number, part in enumerate(parts)
        ]
    elif ranks.n == 1:
        return migrated_keys(safetensors.torch.load_file(path / TENSORS), TENSORS)
    else:
        files = [(path / TENSORS, range(record.sae.d_sae))]
    return held_tensors(files, ranks.latents(record.sae.d_sae), lambda names: migrated_keys(names, TENSORS))


def _read(path: Path, ranks: Ranks = ONE) -> State:
    """state.json of a checkpoint.

    Raises: DamagedCheckpoint if it is not whole, or the tensors beside it are not; of ranks, each checks some files.
    """
    try:
        state, is_hashed = read_record(path / "state.json", State)
        is_sharded = (path / SHARDS).exists()
        whole = is_hashed and ((ranks.rank > 0 and not is_sharded) or state.sha256 == state_sha256(path))
        if whole and is_sharded:
            parts = read_record(path / SHARDS, Shards).record.shards
            own = range(ranks.rank, len(parts), ranks.n)
            whole = all(parts[i].sha256 == file_sha256(path / name_of_shard(i, len(parts))) for i in own)
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
