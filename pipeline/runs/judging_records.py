"""What judging writes of several SAEs at once, and with the language model: numbers with their population and noise."""

from typing import ClassVar, Literal

from pydantic import model_validator

from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.records import Count, Group, Record

PopulationName = Literal["as_trained", "all_but_special"]
"""`as_trained`: the rows that pass the filters of training. `all_but_special`: all but those of special tokens."""
POPULATIONS: tuple[PopulationName, ...] = ("as_trained", "all_but_special")


class Interval(Group):
    """Of 95 %, over documents unless its place says otherwise."""

    low: float
    high: float


class Estimate(Group):
    """A number and its noise."""

    value: float | None
    """null: not defined."""
    interval: Interval | None
    """null: not known, such as below 8 documents."""


class SeedSpread(Group):
    """A number over the seeds of whatever was drawn to get it."""

    mean: float | None
    """Over the seeds where it is defined; null: over none."""
    standard_deviation: float | None
    """Divided by n - 1; null: of fewer than two."""
    n_seeds: Count
    """Where it is defined."""
    n_undefined: Count
    """Where it is not."""


class DocumentSums(Group):
    """Sums over the scored rows of each document of one population; documents in the order of the store."""

    documents: list[Count]
    n_rows: list[Count]
    error_square: list[float]
    """Of ||x - xhat||^2."""
    centred_square: list[float]
    """Of ||x - mean||^2, the mean being that of all scored rows of the population."""
    active: list[float]
    """Of the number of active latents."""

    @model_validator(mode="after")
    def _fits(self) -> "DocumentSums":
        lengths = {name: len(value) for name, value in self if name != "documents"}
        if wrong := {name: length for name, length in lengths.items() if length != len(self.documents)}:
            raise ValueError(f"{len(self.documents)} documents, but lengths {wrong}")
        return self


class PerDocument(Record):
    """per_document.json: what intervals and paired differences are computed from."""

    kind: ClassVar[str] = "per_document.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    fingerprint: str
    """That of metrics.json."""
    populations: dict[PopulationName, DocumentSums]


FormName = Literal["population", "saebench"]
"""Which rows the reconstruction replaces: those that pass the filters of training, or all but those of special tokens
(SAEBench). The others keep their activation."""


class LossSums(Group):
    """Of one kind of forward pass: sums over the rows of each document, in natural units of information (nat)."""

    cross_entropy: list[float]
    """Of the next token; over `n_predictions` rows."""
    kl: list[float]
    """From the clean pass; over `n_rows` rows."""


class Losses(Group):
    """Means over all rows, in nat, with their noise."""

    cross_entropy: Estimate
    kl: Estimate


class FormLosses(Group):
    """What the language model loses with the reconstruction in the place of some rows."""

    n_replaced_rows: Count
    with_sae: Losses
    zero_ablation: Losses
    """With zeros: in the rows that are replaced (`population`), in all rows (`saebench`)."""
    mean_ablation: Losses
    """The same with the mean of the rows that pass the filters."""
    ce_recovered: Estimate
    """(zero ablation - with the SAE) / (zero ablation - clean), of cross-entropy: 1 loses nothing."""
    kl_recovered: Estimate
    """1 - KL with the SAE / KL of the zero ablation."""
    ce_recovered_of_mean: Estimate
    """As `ce_recovered`, with the mean ablation in the place of the zero ablation."""
    kl_recovered_of_mean: Estimate
    sums: dict[Literal["with_sae", "zero_ablation", "mean_ablation"], LossSums]


class JudgedModel(Group):
    """The language model, as the store's plan records it."""

    name: str
    identity: str
    """sha256 of what the plan says of its weights."""
    dtype: str
    """Of the forward passes of judging."""


class LossesScored(Group):
    """What losses with the model depend on."""

    sae: str
    """The fingerprint of config.json."""
    weights_sha256: str
    store_id: str
    split: str
    filters: FilterPart
    model: JudgedModel
    max_rows: Count | None
    form_names: list[FormName]


class ModelMetrics(LossesScored, Record):
    """model_metrics.json: losses of the language model with the reconstruction spliced in."""

    kind: ClassVar[str] = "model_metrics.json"
    remedy: ClassVar[str] = "delete it and run evaluate --with-model"
    begins: Literal["stored rows", "the block of the site", "the tokens"]
    """Where the forward passes begin."""
    n_rows: Count
    """Rows on which losses are measured: those of special tokens are not."""
    n_sequence_rows: Count
    n_sequences: Count
    n_sequences_left_out: Count
    """Sequences that hold a row that is not finite."""
    n_documents: Count
    n_heldout_documents: Count
    documents: list[Count]
    """Those of the sequences, in the order of the store."""
    document_rows: list[Count]
    """Rows on which KL is measured, by document."""
    document_predictions: list[Count]
    """Rows on which cross-entropy is measured, by document: those that are followed by a token in their sequence."""
    clean_cross_entropy: Estimate
    clean_sums: list[float]
    forms: dict[FormName, FormLosses]
    fingerprint: str
    """Of what the losses depend on."""

    @model_validator(mode="after")
    def _fits(self) -> "ModelMetrics":
        lengths = {name: len(getattr(self, name)) for name in ("document_rows", "document_predictions", "clean_sums")}
        for form, losses in self.forms.items():
            for name, sums in losses.sums.items():
                lengths |= {f"forms.{form}.sums.{name}.{loss}": len(of_D) for loss, of_D in sums}
        if wrong := {name: length for name, length in lengths.items() if length != len(self.documents)}:
            raise ValueError(f"{len(self.documents)} documents, but lengths {wrong}")
        return self
