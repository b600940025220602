"""The chain of hashes in an SAE's folder: each record names what it was made from, and here the names are compared.

config.json <- training.json <- weights, curves; config.json, weights, store <- metrics.json -> features, examples.
Every function raises CheckpointError on the first thing that does not match.
"""

from pathlib import Path
from typing import Any

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.durable import sha256_of
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.record_files import Record, fingerprint, read_record
from strata_sae.pipeline.runs.records import Ending, Examples, Metrics, SAERecord

UNHASHED = "written before records carried a hash: not checked"


def read_config(folder: VariantFolder) -> Record:
    """config.json, if its fingerprint is that of the rest and it is the config of this very folder."""
    record = read_record(folder.config, SAERecord)
    rest = {key: value for key, value in record.data.items() if key != "fingerprint"}
    if record.data["fingerprint"] != fingerprint(rest):
        raise CheckpointError(f"{folder.config}: fingerprint: is not that of the rest; {SAERecord.remedy}")
    name = f"{record.data['variant']}@{record.data['site']}"
    if name != folder.name:
        raise CheckpointError(f"{folder.config}: it is the config of {name!r}, another SAE; {SAERecord.remedy}")
    return record


def read_training(folder: VariantFolder, config: dict[str, Any]) -> Record:
    """training.json, if it is of this config."""
    record = read_record(folder.training, Ending)
    if record.data["fingerprint"] != config["fingerprint"]:
        raise CheckpointError(
            f"{folder.training}: fingerprint: does not belong to the config beside it; {Ending.remedy}"
        )
    return record


def check_weights(folder: VariantFolder, training: dict[str, Any]) -> None:
    """Whether the weights are those that training left."""
    _check(folder.weights, training["sha256"]["weights"], folder.training, Ending.remedy)


def check_curves(folder: VariantFolder, training: dict[str, Any]) -> None:
    """Whether the curves are those that training left."""
    _check(folder.curves, training["sha256"]["curves"], folder.training, Ending.remedy)


def read_metrics(folder: VariantFolder) -> Record:
    """metrics.json as it was written, whatever it is of."""
    return read_record(folder.metrics, Metrics)


def check_metrics(
    folder: VariantFolder, metrics: dict[str, Any], config: dict[str, Any], training: dict[str, Any]
) -> None:
    """Whether the scores are of this config and store, and of the weights that training left."""
    expected = {
        "sae": config["fingerprint"],
        "weights_sha256": training["sha256"]["weights"],
        "store_id": config["store_id"],
    }
    for key, value in expected.items():
        if metrics[key] != value:
            raise CheckpointError(
                f"{folder.metrics}: {key}: is {metrics[key][:16]}, but this SAE's is {value[:16]}; {Metrics.remedy}"
            )


def check_features(folder: VariantFolder, metrics: dict[str, Any]) -> None:
    """Whether the per-latent measurements are those that were written with the scores."""
    _check_measured(folder.features, metrics, "features", folder)


def check_examples(folder: VariantFolder, metrics: dict[str, Any]) -> None:
    """Whether the examples are those that were written with the scores."""
    _check_measured(folder.examples, metrics, "examples", folder)


def read_examples(folder: VariantFolder, metrics: dict[str, Any]) -> Record:
    """examples.json, if it was written with these scores."""
    check_examples(folder, metrics)
    record = read_record(folder.examples, Examples)
    if record.data["fingerprint"] != metrics["fingerprint"]:
        raise CheckpointError(f"{folder.examples}: fingerprint: is not that of the scores; {Examples.remedy}")
    return record


def _check_measured(path: Path, metrics: dict[str, Any], key: str, folder: VariantFolder) -> None:
    if metrics.get("sha256") is not None:
        _check(path, metrics["sha256"][key], folder.metrics, "delete metrics.json and run evaluate")


def _check(path: Path, expected: str, named_in: Path, remedy: str) -> None:
    """Compare a file's sha256 with what a record beside it says."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if found != expected:
        raise CheckpointError(
            f"{path}: sha256 {found[:16]} is not the {expected[:16]} that {named_in.name} names; "
            f"the file is damaged, {remedy}"
        )
