"""The chain of hashes in an SAE's folder: each record names what it was made from, and here the names are compared.

config.json <- training.json <- weights, curves; config.json, weights, store <- metrics.json -> features, examples,
per_document.json. config.json, weights, store <- truth.json, absorption.json, token_labels.json -> labels,
counts of tokens. config.json, weights, store, codes <- interpretation.json. config.json, weights <- published.json.
Every function raises CheckpointError on the first thing that does not match.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.absorption_records import AbsorptionRecord
from strata_sae.pipeline.runs.evaluation_records import Examples, Metrics
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.interpretation_records import InterpretationRecord, PublishedRecord
from strata_sae.pipeline.runs.judging_records import ModelMetrics, PerDocument
from strata_sae.pipeline.runs.label_records import TokenLabelRecord
from strata_sae.pipeline.runs.match_records import MatchRecord
from strata_sae.pipeline.runs.probing_records import ProbingRecord
from strata_sae.pipeline.runs.record_files import Found, read_record
from strata_sae.pipeline.runs.records import Ending, SAERecord
from strata_sae.pipeline.runs.truth_records import TruthRecord
from strata_sae.stores.files.hashing import file_sha256

UNHASHED = "written before records carried a hash: not checked"


def read_config(folder: VariantFolder) -> Found[SAERecord]:
    """config.json, if it is the config of this very folder."""
    found = read_record(folder.config, SAERecord)
    if found.record.name != folder.name:
        raise CheckpointError(
            f"{folder.config}: it is the config of {found.record.name!r}, another SAE; {SAERecord.remedy}"
        )
    return found


def read_training(folder: VariantFolder, config: SAERecord) -> Found[Ending]:
    """training.json, if it is of this config."""
    found = read_record(folder.training, Ending)
    if found.record.fingerprint != config.fingerprint:
        raise CheckpointError(
            f"{folder.training}: fingerprint: does not belong to the config beside it; {Ending.remedy}"
        )
    return found


def check_weights(folder: VariantFolder, training: Ending) -> None:
    """Whether the weights are those that training left."""
    _check(folder.weights, training.sha256.weights, folder.training, Ending.remedy)


def check_curves(folder: VariantFolder, training: Ending) -> None:
    """Whether the curves are those that training left."""
    _check(folder.curves, training.sha256.curves, folder.training, Ending.remedy)


def check_metrics(folder: VariantFolder, metrics: Metrics, config: SAERecord, training: Ending) -> None:
    """Whether the scores are of this config and store, and of the weights that training left."""
    _check_origin(folder.metrics, metrics, config, training, Metrics.remedy)


def read_probing(folder: VariantFolder, config: SAERecord, training: Ending) -> Found[ProbingRecord]:
    """probing.json, if it is of this config and store, and of the weights that training left."""
    found = read_record(folder.probing, ProbingRecord)
    _check_origin(folder.probing, found.record, config, training, ProbingRecord.remedy)
    return found


def read_absorption(folder: VariantFolder, config: SAERecord, training: Ending) -> Found[AbsorptionRecord]:
    """absorption.json, if it is of this config and store, and of the weights that training left."""
    found = read_record(folder.absorption, AbsorptionRecord)
    _check_origin(folder.absorption, found.record, config, training, AbsorptionRecord.remedy)
    return found


def read_token_labels(folder: VariantFolder, config: SAERecord, training: Ending) -> Found[TokenLabelRecord]:
    """token_labels.json, if it is of this SAE, and names the labels beside it."""
    found = read_record(folder.token_labels, TokenLabelRecord)
    _check_origin(folder.token_labels, found.record, config, training, TokenLabelRecord.remedy)
    _check(folder.label_arrays, found.record.sha256.labels, folder.token_labels, TokenLabelRecord.remedy)
    return found


def check_token_counts(folder: VariantFolder, record: TokenLabelRecord) -> None:
    """Whether the counts of tokens are those that were written with the labels."""
    _check(folder.token_counts, record.sha256.counts, folder.token_labels, TokenLabelRecord.remedy)


def read_interpretation(folder: VariantFolder, config: SAERecord, training: Ending) -> Found[InterpretationRecord]:
    """interpretation.json, if it is of this config and store, and of the weights that training left."""
    found = read_record(folder.interpretation, InterpretationRecord)
    _check_origin(folder.interpretation, found.record, config, training, InterpretationRecord.remedy)
    latents = [latent.latent for latent in found.record.latents]
    _check_latents(folder.interpretation, latents, config, InterpretationRecord.remedy)
    return found


def read_published(folder: VariantFolder, config: SAERecord, training: Ending) -> Found[PublishedRecord]:
    """published.json, if it is of this config, and of the weights that training left."""
    found = read_record(folder.published, PublishedRecord)
    remedy = PublishedRecord.remedy
    _check_sae(folder.published, found.record, config, training, remedy)
    latents = [one.latent for one in found.record.explanations]
    _check_latents(folder.published, latents, config, remedy)
    return found


def read_truth(folder: VariantFolder, config: SAERecord, training: Ending) -> Found[TruthRecord]:
    """truth.json, if it is of this very SAE."""
    found = read_record(folder.truth, TruthRecord)
    check_truth(folder, found.record, config, training)
    return found


def check_truth(folder: VariantFolder, truth: TruthRecord, config: SAERecord, training: Ending) -> None:
    """Whether what was found of a toy's features is of this config and store, and of the weights that training left."""
    _check_origin(folder.truth, truth, config, training, TruthRecord.remedy)


def check_features(folder: VariantFolder, metrics: Metrics) -> None:
    """Whether the per-latent measurements are those that were written with the scores."""
    if metrics.sha256 is not None:
        _check(folder.features, metrics.sha256.features, folder.metrics, Metrics.remedy)


def check_examples(folder: VariantFolder, metrics: Metrics) -> None:
    """Whether the examples are those that were written with the scores."""
    if metrics.sha256 is not None:
        _check(folder.examples, metrics.sha256.examples, folder.metrics, Metrics.remedy)


def read_examples(folder: VariantFolder, metrics: Metrics) -> Found[Examples]:
    """examples.json, if it was written with these scores."""
    check_examples(folder, metrics)
    found = read_record(folder.examples, Examples)
    if found.record.fingerprint != metrics.fingerprint:
        raise CheckpointError(f"{folder.examples}: fingerprint: is not that of the scores; {Examples.remedy}")
    return found


def check_per_document(folder: VariantFolder, metrics: Metrics) -> None:
    """Whether the sums by document are those that were written with the scores."""
    if metrics.sha256 is not None and metrics.sha256.per_document is not None:
        _check(folder.per_document, metrics.sha256.per_document, folder.metrics, Metrics.remedy)


def read_match(folder: VariantFolder) -> Found[MatchRecord]:
    """match.json, if it is of this very folder."""
    found = read_record(folder.match, MatchRecord)
    if found.record.name != folder.name:
        raise CheckpointError(
            f"{folder.match}: it is the search of {found.record.name!r}, another SAE; {MatchRecord.remedy}"
        )
    return found


def check_match(folder: VariantFolder, match: MatchRecord, config: SAERecord, training: Ending) -> None:
    """Whether the trial that the search accepted is this SAE."""
    _check_origin(folder.match, match, config, training, MatchRecord.remedy)


def read_per_document(folder: VariantFolder, metrics: Metrics) -> Found[PerDocument]:
    """per_document.json, if it was written with these scores."""
    check_per_document(folder, metrics)
    found = read_record(folder.per_document, PerDocument)
    if found.record.fingerprint != metrics.fingerprint:
        raise CheckpointError(f"{folder.per_document}: fingerprint: is not that of the scores; {PerDocument.remedy}")
    return found


def read_model_metrics(folder: VariantFolder, config: SAERecord, training: Ending) -> Found[ModelMetrics]:
    """model_metrics.json, if it is of this config and store, and of the weights that training left."""
    found = read_record(folder.model_metrics, ModelMetrics)
    _check_origin(folder.model_metrics, found.record, config, training, ModelMetrics.remedy)
    return found


class _OfSAE(Protocol):
    """A record that names the SAE that it is of."""

    @property
    def sae(self) -> str: ...

    @property
    def weights_sha256(self) -> str: ...


class _Measured(_OfSAE, Protocol):
    """A record that names also what it was measured on."""

    @property
    def store_id(self) -> str: ...


def _check_origin(path: Path, measured: _Measured, config: SAERecord, training: Ending, remedy: str) -> None:
    """Compare what a record was measured on with the SAE beside it."""
    _check_sae(path, measured, config, training, remedy)
    _check_named(path, "store_id", measured.store_id, config.store_id, remedy)


def _check_sae(path: Path, record: _OfSAE, config: SAERecord, training: Ending, remedy: str) -> None:
    """Compare the SAE that a record names with the one beside it."""
    _check_named(path, "sae", record.sae, config.fingerprint, remedy)
    _check_named(path, "weights_sha256", record.weights_sha256, training.sha256.weights, remedy)


def _check_named(path: Path, key: str, found: str, expected: str, remedy: str) -> None:
    if found != expected:
        raise CheckpointError(f"{path}: {key}: is {found[:16]}, but this SAE's is {expected[:16]}; {remedy}")


def _check_latents(path: Path, latents: Sequence[int], config: SAERecord, remedy: str) -> None:
    """Whether the latents that a record tells of are this SAE's."""
    largest = max(latents, default=0)
    if largest >= config.sae.d_sae:
        raise CheckpointError(f"{path}: tells of latent {largest}, but this SAE has {config.sae.d_sae}; {remedy}")


def _check(path: Path, expected: str, named_in: Path, remedy: str) -> None:
    """Compare a file's sha256 with what a record beside it says."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if found != expected:
        raise CheckpointError(
            f"{path}: sha256 {found[:16]} is not the {expected[:16]} that {named_in.name} names; "
            f"the file is damaged, {remedy}"
        )
