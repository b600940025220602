"""token_labels.json: which tokens tell best when each latent fires, and how well they do on other documents."""

from typing import ClassVar, Literal

from strata_sae.pipeline.runs.evaluation_records import FilterPart, Measured
from strata_sae.pipeline.runs.records import Count, Group, Record


class LabelHashes(Group):
    """sha256 of the files that were written with the record."""

    labels: str
    """token_labels.safetensors."""
    counts: str
    """token_counts.safetensors."""


class LabelsOf(Group):
    """What the labels depend on."""

    sae: str
    """The fingerprint of config.json."""
    weights_sha256: str
    store_id: str
    codes_id: str
    """Of the codes, which name every store that is read."""
    population: Literal["as_trained"]
    filters: FilterPart
    """Of training: which rows the population is."""
    fitted_on: Literal["even documents"]
    """The others are those that the labels are scored on."""
    least_rows: Count
    """Active rows in each half that a latent's F1 needs."""
    definition: str


class TokenLabelRecord(LabelsOf, Record):
    """token_labels.json; written last, so that its presence means that the files beside it are whole."""

    kind: ClassVar[str] = "token_labels.json"
    remedy: ClassVar[str] = "delete it and run strata codes"
    n_latents: Count
    n_labelled: Count
    """With enough rows for an F1."""
    metrics: dict[str, Measured]
    sha256: LabelHashes
