"""Trained SAEs read back from a run folder."""

from dataclasses import dataclass
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.chain import check_curves, check_weights, read_config, read_training
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.loaded import LoadedSAE
from strata_sae.pipeline.runs.records import Ending, SAERecord
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE


class Provenance(NamedTuple):
    """What a trained SAE was made from."""

    run: str
    """Name of the run."""
    variant: str
    site: str
    """Name of the site, or of the route."""
    store_ids: dict[str, str]
    """Site that is read or written -> id of its store."""
    config: SAERecord
    """Everything that its bits depend on; `config.fingerprint` names it."""
    weights_sha256: str


@dataclass(frozen=True)
class TrainedSAE(LoadedSAE):
    """An SAE of a run, and the records beside it. Rows are raw: as the store holds them, not scaled."""

    folder: VariantFolder
    record: SAERecord
    training: Ending
    sae: SAE
    unhashed: tuple[str, ...]
    """Names of the records that carry no hash, since an earlier version wrote them."""

    @property
    def name(self) -> str:
        """`<variant>@<site>`."""
        return self.folder.name

    @property
    def is_per_document(self) -> bool:
        """Whether it was trained on rows standardised by document (`training.input_scale: per_document`)."""
        return self.record.training.input_scale == "per_document"

    @property
    def provenance(self) -> Provenance:
        """Run, stores and config that made it."""
        record = self.record
        return Provenance(
            run=self.folder.path.resolve().parents[1].name,
            variant=record.variant,
            site=record.site,
            store_ids=record.store_ids or {record.site: record.store_id},
            config=record,
            weights_sha256=self.training.sha256.weights,
        )


def finished(run: RunFolder, site: str, store_id: str) -> list[VariantFolder]:
    """The SAEs at a site that were trained to their end on this store, by name.

    Raises: CheckpointError if one was trained on another store, or if a file of its folder is not what was written.
    """
    found = []
    for folder in (folder for folder in run.trained() if folder.site == site):
        config = read_config(folder).record
        training = read_training(folder, config).record
        check_curves(folder, training)
        if training.status != "finished":
            continue
        if config.store_id != store_id:
            raise CheckpointError(
                f"{folder.config}: trained on store {config.store_id[:16]}, but the config's store is {store_id[:16]}; "
                "set store.path to the store it was trained on"
            )
        found.append(folder)
    return found


def load(folder: VariantFolder, device: torch.device | None = None, kept: VariantFolder | None = None) -> TrainedSAE:
    """Read a trained SAE from its folder, onto a device (None: the processor).

    kept: the folder of weights of a share of the run (`training.keep`) to read in the place of the final ones.

    Raises: CheckpointError if the files are damaged, foreign to each other, or of an unknown kind.
    """
    config = read_config(folder)
    record = config.record
    weights_in = kept or folder
    training = read_training(weights_in, record)
    check_weights(weights_in, training.record)
    name = record.sae.architecture
    if name not in ARCHITECTURES:
        raise CheckpointError(f"{folder.config}: architecture {name!r} is unknown; known: {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    try:
        settings = architecture.Settings.model_validate(record.sae.model_dump(mode="json"))
        weights = safetensors.torch.load_file(weights_in.weights, device=str(device or "cpu"))
        sae = architecture(settings, record.d_out, weights, record.d_in)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in ("sae", *first["loc"]))
        raise CheckpointError(f"{folder.config}: {key}: {first['msg']}; delete {folder.path} and train again") from None
    except (ValueError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{weights_in.weights}: no weights of {folder.name}: {error}; delete {folder.path}"
        ) from None
    # Recorded with the SAE, since it decides how sums are rounded: scores then depend on files alone.
    sae.break_even_density = record.training.break_even_density
    read = {folder.config.name: config.is_hashed, folder.training.name: training.is_hashed}
    unhashed = tuple(name for name, is_hashed in read.items() if not is_hashed)
    return TrainedSAE(folder, record, training.record, sae, unhashed)
