"""Trained SAEs read back from a run folder."""

from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.kernels.selection import BREAK_EVEN_DENSITY
from strata_sae.pipeline.runs import RunFolder, VariantFolder
from strata_sae.pipeline.runs.chain import check_curves, check_weights, read_config, read_training
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE


@dataclass(frozen=True)
class TrainedSAE:
    """An SAE in raw units and the records beside it."""

    folder: VariantFolder
    record: dict[str, Any]
    training: dict[str, Any]
    sae: SAE
    unhashed: tuple[str, ...]
    """Names of the records that carry no hash, since an earlier version wrote them."""


def finished(run: RunFolder, site: str, store_id: str) -> list[VariantFolder]:
    """The SAEs at a site that were trained to their end on this store, by name.

    Raises: CheckpointError if one was trained on another store, or if a file of its folder is not what was written.
    """
    found = []
    for folder in (folder for folder in run.trained() if folder.site == site):
        config = read_config(folder).data
        training = read_training(folder, config).data
        check_curves(folder, training)
        if training["status"] != "finished":
            continue
        trained_on = config["store_id"]
        if trained_on != store_id:
            raise CheckpointError(
                f"{folder.config}: trained on store {trained_on[:16]}, but the config's store is {store_id[:16]}; "
                "set store.path to the store it was trained on"
            )
        found.append(folder)
    return found


def load(folder: VariantFolder, device: torch.device) -> TrainedSAE:
    """Read an SAE. Raises: CheckpointError if the files are damaged, foreign to each other, or of an unknown kind."""
    config = read_config(folder)
    ending = read_training(folder, config.data)
    record, training = config.data, ending.data
    check_weights(folder, training)
    name = record["sae"]["architecture"]
    if name not in ARCHITECTURES:
        raise CheckpointError(f"{folder.config}: architecture {name!r} is unknown; known: {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    try:
        settings = architecture.Settings.model_validate(record["sae"])
        weights = safetensors.torch.load_file(folder.weights, device=str(device))
        sae = architecture(settings, record["d_model"], weights, record.get("d_in"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in ("sae", *first["loc"]))
        raise CheckpointError(f"{folder.config}: {key}: {first['msg']}; delete {folder.path} and train again") from None
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder.weights}: no weights of {folder.name}: {error}; delete {folder.path}") from None
    # Recorded with the SAE, since it decides how sums are rounded: scores then depend on files alone.
    sae.break_even_density = record.get("training", {}).get("break_even_density") or BREAK_EVEN_DENSITY
    read = {folder.config.name: config.is_hashed, folder.training.name: ending.is_hashed}
    return TrainedSAE(folder, record, training, sae, tuple(name for name, is_hashed in read.items() if not is_hashed))
