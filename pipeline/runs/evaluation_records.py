"""The files that evaluation writes and the report reads: scores, examples, and what the store was."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from strata_sae.pipeline.runs.records import Count, Group, OpenGroup, Record

_BY = "/inference="


class Measured(Group):
    """One metric."""

    value: float | None
    unit: str
    definition: str


def other_form(metric: str, inference: str) -> str:
    """Name of a metric of the codes that a trained SAE gives by a way of inference that its `encode` does not use."""
    return f"{metric}{_BY}{inference}"


def way_of(metric: str) -> str | None:
    """The way of inference in a name that `other_form` made; None of any other name."""
    name, found, inference = metric.rpartition(_BY)
    return inference if name and found else None


class Histogram(Group):
    """Counts between edges."""

    log10_edges: list[float]
    counts: list[Count]

    @model_validator(mode="after")
    def _fits(self) -> "Histogram":
        if self.counts and len(self.log10_edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need one edge more, found {len(self.log10_edges)}")
        return self


class FilterPart(Group):
    """Rows that were left out."""

    drop_bos: bool
    drop_special: bool
    drop_template: bool
    max_norm_multiple: float | None


class EvaluationPart(Group):
    """Settings of evaluation that scores and examples depend on."""

    max_rows: Count | None
    example_latents: Count
    examples_per_latent: Count
    context_tokens: Count


class Scored(Group):
    """What scores depend on."""

    sae: str
    """The fingerprint of config.json."""
    weights_sha256: str
    store_id: str
    split: str
    filters: FilterPart
    evaluation: EvaluationPart
    definitions: dict[str, str]


class MeasuredHashes(Group):
    """sha256 of what was measured together with the scores."""

    features: str
    examples: str
    per_document: str | None = None
    """null: from a version that kept no sums by document."""


class PositionScores(Group):
    """Of the rows from one place in their documents to another."""

    start: Count
    stop: Count | None
    """First place that is not meant; null: to the end."""
    n_rows: Count
    mse_per_dim: float
    r2_pooled: float | None
    """1 - E ||e||^2 / (E ||x||^2 - ||E x||^2) of these rows alone."""


class PopulationScores(Group):
    """Scores over another population than `Metrics.metrics`."""

    metrics: dict[str, Measured]
    density_histogram: Histogram
    n_rows: Count
    n_documents: Count
    top_percent_square_share: float | None
    """Share of the sum of ||x||^2 in the largest 1 % of the rows."""
    by_position: list[PositionScores]


class Metrics(Scored, Record):
    """metrics.json: scores, and what they were computed from."""

    kind: ClassVar[str] = "metrics.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    metrics: dict[str, Measured]
    density_histogram: Histogram
    n_rows: Count
    n_documents: Count
    top_percent_square_share: float | None
    """Share of the sum of ||x||^2 in the largest 1 % of the rows."""
    by_position: list[PositionScores] = Field(default=[])
    """By the row's place in its document."""
    all_but_special: PopulationScores | None = None
    """Over all rows but those of BOS and special tokens. null: not measured, since the SAE's rows are standardised by
    document and a document has no row that training's filters leave; or from a version that did not."""
    fingerprint: str
    """Of what the scores depend on."""
    sha256: MeasuredHashes | None
    """null: from a version that did not hash them."""


class Example(Group):
    """A row on which a latent is most active, with the text around it."""

    value: float
    row: Count
    document: Count
    position: Count
    index: Count
    """Place of the row in `tokens` and `values`."""
    tokens: list[str]
    values: list[float | None]
    """null on tokens that the filters leave out."""

    @model_validator(mode="after")
    def _fits(self) -> "Example":
        if not self.index < len(self.tokens) == len(self.values):
            raise ValueError(f"{len(self.tokens)} tokens, {len(self.values)} values, index {self.index}")
        return self


class Latent(Group):
    """A latent and its examples."""

    latent: Count
    density: float
    examples: list[Example]


class Examples(Record):
    """examples.json: the rows on which a few latents are most active."""

    kind: ClassVar[str] = "examples.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    fingerprint: str
    """That of metrics.json."""
    store_id: str
    split: str
    choice: str
    latents: list[Latent]


# Whoever extracted a store may have put anything into its provenance: what is no text is not known, and stops nothing.
Text = Annotated[str | None, BeforeValidator(lambda found: found if isinstance(found, str) else None)]
Number = Annotated[int | None, BeforeValidator(lambda found: found if type(found) is int else None)]


def _object(found: JsonValue) -> JsonValue:
    return found if isinstance(found, dict) else {}


def _objects(found: JsonValue) -> JsonValue:
    return [part for part in found if isinstance(part, dict)] if isinstance(found, list) else []


class Source(OpenGroup):
    """One source of the text."""

    path: Text = None
    kind: Text = None
    documents: Number = None


class Corpus(OpenGroup):
    """The text."""

    sources: Annotated[list[Source], BeforeValidator(_objects)] = Field(default=[])


class Cut(OpenGroup):
    """How the text was cut into sequences."""

    mode: Text = None
    context_length: Number = None


class Extraction(OpenGroup):
    """The config of an extraction, as its plan records it."""

    corpus: Annotated[Cut, BeforeValidator(_object)] = Cut()


class Model(OpenGroup):
    """The language model."""

    model: Text = None
    revision: Text = None
    architecture: Text = None
    dtype: Text = None


class StoredSite(Group):
    """A site of the store."""

    d_model: Count
    bytes_per_token: float


class Timing(Group):
    """How fast a store was filled."""

    rows: float
    seconds: float
    rows_per_second: float


class Statistics(Group):
    """Of rows of a site; where there is no row, there is a count alone."""

    count: Count
    mean_square_norm: float | None = None
    norm_quantiles: dict[str, float] | None = None


class StoreSummary(Record):
    """store.json: what `Together.summary` says of the store that scores were measured on."""

    kind: ClassVar[str] = "store.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    store_id: str
    plan_id: str
    lineage: dict[str, JsonValue] | None
    model: Annotated[Model, BeforeValidator(_object)]
    corpus: Annotated[Corpus, BeforeValidator(_object)]
    config: Extraction
    sites: dict[str, StoredSite]
    siblings: dict[str, list[str]]
    """Ids of the stores that hold further sites -> those sites."""
    encoding: str
    compressor: str
    n_rows: Count
    n_documents: Count
    split_rows: dict[str, Count]
    rows_per_chunk: Count
    n_units: Count
    n_data_files: Count
    token_map_bytes: Count
    total_bytes: Count
    timing: Timing | None
    statistics: dict[str, dict[str, Statistics]]
