"""The chain of hashes in an SAE's folder: each record names what it was made from, and here the names are compared.

config.json <- training.json <- weights, curves; config.json, weights, store <- metrics.json -> features, examples.
Every function raises CheckpointError on the first thing that does not match.
"""

from pathlib import Path

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.evaluation_records import Examples, Metrics
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.record_files import Found, read_record
from strata_sae.pipeline.runs.records import Ending, SAERecord
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
    compared = {
        "sae": (metrics.sae, config.fingerprint),
        "weights_sha256": (metrics.weights_sha256, training.sha256.weights),
        "store_id": (metrics.store_id, config.store_id),
    }
    for key, (found, expected) in compared.items():
        if found != expected:
            raise CheckpointError(
                f"{folder.metrics}: {key}: is {found[:16]}, but this SAE's is {expected[:16]}; {Metrics.remedy}"
            )


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
