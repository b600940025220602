"""Trained SAEs read back from a run folder."""

from dataclasses import dataclass
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.runs.chain import check_curves, check_weights, read_config, read_training
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.records import Ending, SAERecord
from strata_sae.pipeline.runs.row_units import RowUnits, units_of_documents
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE, Inference


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
class TrainedSAE:
    """An SAE that was trained, and the records beside it. Rows are raw: as the store holds them, not scaled."""

    folder: VariantFolder
    record: SAERecord
    training: Ending
    sae: SAE
    unhashed: tuple[str, ...]
    """Names of the records that carry no hash, since an earlier version wrote them."""

    def units_of(self, x_BM: Tensor, document_B: Tensor) -> RowUnits | None:
        """What `encode` and `decode` need of an SAE that was trained on rows standardised by document; None of others.

        x_BM: rows of whole documents [B, d_in], without those that training.filters leaves out; document_B: integers.
        Raises: ValueError if the numbers of a document do not vary.
        """
        return units_of_documents(x_BM, document_B) if self.is_per_document else None

    @property
    def is_per_document(self) -> bool:
        """Whether it was trained on rows standardised by document (`training.input_scale: per_document`)."""
        return self.record.training.input_scale == "per_document"

    def encode(self, x_BM: Tensor, units: RowUnits | None = None, *, inference: Inference | None = None) -> Codes:
        """The sparse codes of rows, each decided by itself: rows of one batch do not change one another.

        Shapes: x_BM float32 [B, d_in], in the units of the store, on the device that the SAE was loaded to.
        units: those of the rows' documents, if `is_per_document`; they change nothing for other SAEs.
        inference: `k` or `threshold`, for topk and batch_topk; None: as the config's `sae.inference` says.
        Returns: codes of B rows and `d_sae` latents; `to_dense()` gives them as [B, d_sae].
        Raises: ValueError for a way in which this SAE cannot select, or without the units that it needs.
        """
        seen_BM = self.seen(x_BM, units)
        if inference is None:
            return self.sae.encode_inference(seen_BM)
        if inference not in (ways := self.sae.inferences()):
            raise ValueError(
                f"inference: {inference!r}, but {self.folder.name} ({self.record.sae.architecture}) selects by "
                f"{' or '.join(ways) or 'its one rule'}; leave the argument out"
            )
        (codes,) = self.sae.encode_as(seen_BM, [inference])
        return codes

    def seen(self, x_BM: Tensor, units: RowUnits | None) -> Tensor:
        """Rows as `sae` reads them: standardised by document if it was trained so. Raises: ValueError without units."""
        units = self._needed(units)
        return x_BM if units is None else units.apply(x_BM)

    def decode(self, codes: Codes, units: RowUnits | None = None) -> Tensor:
        """The reconstruction of rows from their codes: float32 [B, d_out], in the units of the store.

        units: as for `encode`; mean and deviation of each row's document, which the codes do not hold, are put back.
        """
        units, xhat_BM = self._needed(units), self.sae.decode(codes)
        return xhat_BM if units is None else units.undo(xhat_BM)

    def _needed(self, units: RowUnits | None) -> RowUnits | None:
        if self.is_per_document and units is None:
            raise ValueError(
                f"{self.folder.name}: was trained on rows standardised by document, so it needs the units of the rows' "
                "documents; give what units_of(rows, documents) returns"
            )
        return units if self.is_per_document else None

    @property
    def threshold(self) -> Tensor | None:
        """Above which value a latent is active: one number, or [d_sae] of JumpReLU. None where nothing is compared.

        topk and batch_topk select by it where `inference` is `threshold`.
        """
        return self.sae.threshold

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
