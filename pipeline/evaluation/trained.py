"""Trained SAEs read back from a run folder."""

from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch

from pipeline.artifacts import RunFolder, VariantFolder, read_json, sha256_of
from pipeline.errors import CheckpointError
from pipeline.saes import ARCHITECTURES
from pipeline.saes.base import SAE


@dataclass(frozen=True)
class TrainedSAE:
    """An SAE in raw units and the records beside it."""

    folder: VariantFolder
    record: dict[str, Any]
    training: dict[str, Any]
    sae: SAE


def finished(run: RunFolder, site: str, store_id: str) -> list[VariantFolder]:
    """The SAEs at a site that were trained to their end on this store, by name.

    Raises: CheckpointError if one was trained on another store.
    """
    folders = [folder for folder in run.trained() if folder.site == site]
    folders = [folder for folder in folders if read_json(folder.training)["status"] == "finished"]
    for folder in folders:
        trained_on = read_json(folder.config)["store_id"]
        if trained_on != store_id:
            raise CheckpointError(
                f"{folder.config}: trained on store {trained_on[:16]}, but the config's store is {store_id[:16]}; "
                "set store.path to the store it was trained on"
            )
    return folders


def load(folder: VariantFolder, device: torch.device) -> TrainedSAE:
    """Read an SAE. Raises: CheckpointError if the files are damaged, foreign to each other, or of an unknown kind."""
    record, training = read_json(folder.config), read_json(folder.training)
    if training["fingerprint"] != record["fingerprint"]:
        raise CheckpointError(f"{folder.training} does not belong to the config beside it; delete {folder.path}")
    found = sha256_of(folder.weights)
    if found != training["sha256"]["weights"]:
        raise CheckpointError(
            f"{folder.weights}: sha256 {found[:16]} is not the {training['sha256']['weights'][:16]} that training.json "
            f"names; the file is damaged, delete {folder.path} and train it again"
        )
    name = record["sae"]["architecture"]
    if name not in ARCHITECTURES:
        raise CheckpointError(f"{folder.config}: architecture {name!r} is unknown; known: {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    weights = safetensors.torch.load_file(folder.weights, device=str(device))
    settings = architecture.Config.model_validate(record["sae"])
    return TrainedSAE(folder, record, training, architecture(settings, record["d_model"], weights, record.get("d_in")))
