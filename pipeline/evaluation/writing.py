"""The files of one SAE's scores."""

from dataclasses import dataclass

import safetensors.torch
import torch

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.evaluation.scores import Scores
from strata_sae.pipeline.reading.context import example
from strata_sae.pipeline.reading.document_units import DocumentUnits
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.heldout_spans import SPLIT
from strata_sae.pipeline.reading.top_rows import CHOICE, TopRows
from strata_sae.pipeline.runs.evaluation_records import Examples, Latent, MeasuredHashes, Metrics, Scored
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.judging_records import DocumentSums, PerDocument, PopulationName
from strata_sae.pipeline.runs.record_files import fingerprint, write_record
from strata_sae.stores import ActivationStore, Filters, Together
from strata_sae.stores.files.filesystem import sync, write_bytes
from strata_sae.stores.files.hashing import file_sha256


@dataclass(frozen=True)
class Held:
    """The held-out rows of a route, and the settings they are scored with."""

    stores: Together
    route: Route
    config: TrainConfig
    device: torch.device

    @property
    def store(self) -> ActivationStore:
        """The store of the first site that is read: its id is what records name."""
        return self.stores.at(self.route.reads[0])

    @property
    def filters(self) -> Filters:
        """Rows that are left out: those that training left out."""
        return filters_of(self.config.training.filters)


def write_scores(scores: Scores, top: TopRows, held: Held, scored_as: Scored, documents: DocumentUnits | None) -> None:
    """The four files of one SAE; metrics.json last, so its presence means scored."""
    folder = scores.trained.folder
    identity = fingerprint(scored_as.model_dump(mode="json"))
    if folder.metrics.exists():  # a kill must not leave older scores beside features and examples of these
        folder.metrics.unlink()
        sync(folder.path)
    _write_features(folder, scores, identity)
    _write_examples(folder, scores, top, held, identity, documents)
    of_trained, of_others = scores.scores_of("as_trained"), scores.scores_of("all_but_special")
    assert of_trained is not None
    sums: dict[PopulationName, DocumentSums] = {"as_trained": scores.documents_of("as_trained")}
    if of_others is not None:
        sums["all_but_special"] = scores.documents_of("all_but_special")
    write_record(folder.per_document, PerDocument(fingerprint=identity, populations=sums))
    metrics = Metrics(
        **dict(scored_as),
        **dict(of_trained),
        all_but_special=of_others,
        fingerprint=identity,
        sha256=MeasuredHashes(
            features=file_sha256(folder.features),
            examples=file_sha256(folder.examples),
            per_document=file_sha256(folder.per_document),
        ),
    )
    write_record(folder.metrics, metrics)


def _write_features(folder: VariantFolder, scores: Scores, identity: str) -> None:
    """A number per latent."""
    features = {
        "density": scores.density_E().float().cpu(),
        "decoder_max_cosine": scores.weights.decoder_max_cosine_E.float().cpu(),
        "encoder_max_cosine": scores.weights.encoder_max_cosine_E.float().cpu(),
    }
    write_bytes(folder.features, safetensors.torch.save(features, {"fingerprint": identity}))


def _write_examples(
    folder: VariantFolder, scores: Scores, top: TopRows, held: Held, identity: str, documents: DocumentUnits | None
) -> None:
    """Rows on which some latents are most active, with their text."""
    settings, density_E = held.config.evaluation, scores.density_E()
    reads = [(held.stores.at(site), site) for site in held.route.reads]
    latents = [
        Latent(
            latent=latent,
            density=float(density_E[latent]),
            examples=[
                example(reads, scores.trained, held.filters, latent, row, value, settings.context_tokens, documents)
                for row, value in found
            ],
        )
        for latent, found in top.found().items()
    ]
    examples = Examples(
        fingerprint=identity,
        store_id=held.store.id,
        split=SPLIT,
        choice=CHOICE.format(n=settings.examples_per_latent),
        latents=latents,
    )
    write_record(folder.examples, examples)
