"""What the records of a run folder hold, as far as a command reads it. Keys that are not named here may hold anything.

A key is optional where an earlier version did not write it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]


class Shape(BaseModel):
    """The base of all: types are exact, and no number is infinite."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    remedy: ClassVar[str] = "delete it and run the stage that writes it"
    """What to do about a file that does not hold this."""


class Part(Shape):
    """One of several sites that are read or written side by side."""

    site: str
    width: Count
    scale: float


class AnySAE(Shape):
    """Settings of an SAE, whatever the architecture."""

    architecture: str
    d_sae: Count


class TrainingPart(Shape):
    """Training settings that later stages read."""

    batch_size: Count | None = None
    break_even_density: float | None = None


class SAERecord(Shape):
    """config.json: everything the bits of an SAE depend on."""

    remedy: ClassVar[str] = "delete its folder and train this SAE again"
    variant: str
    site: str
    seed: Count | None = None
    sae: AnySAE
    objective: dict[str, dict[str, Any]] = {}
    training: TrainingPart = TrainingPart()
    store_id: str
    store_ids: dict[str, str] = {}
    d_model: Annotated[int, Field(gt=0)]
    d_in: Annotated[int, Field(gt=0)] | None = None
    input_scale: float | None = None
    reads: list[Part] = []
    writes: list[Part] = []
    fingerprint: str


class FinalHashes(Shape):
    """sha256 of what training left behind."""

    weights: str
    curves: str
    state: str | None = None


class Ending(Shape):
    """training.json: how training ended."""

    remedy: ClassVar[str] = "delete its folder and train this SAE again"
    fingerprint: str
    status: Literal["finished", "diverged"]
    diverged_at_step: Count | None = None
    reason: str | None = None
    n_steps: Count | None = None
    tokens: Count | None = None
    sha256: FinalHashes


class State(Shape):
    """state.json of a checkpoint."""

    remedy: ClassVar[str] = "an older checkpoint is used"
    step: Count
    scalars: dict[str, Any]
    curves_bytes: Count
    curves_sha256: str | None = None
    config: dict[str, Any]
    sha256: str


class Measured(Shape):
    """One metric."""

    value: float | None
    unit: str
    definition: str


class Histogram(Shape):
    """Counts between edges."""

    log10_edges: list[float]
    counts: list[Count]

    @model_validator(mode="after")
    def _fits(self) -> "Histogram":
        if self.counts and len(self.log10_edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need one edge more, found {len(self.log10_edges)}")
        return self


class MeasuredHashes(Shape):
    """sha256 of what was measured together with the scores."""

    features: str
    examples: str


class Metrics(Shape):
    """metrics.json: scores, and what they were computed from."""

    remedy: ClassVar[str] = "delete it and run evaluate"
    metrics: dict[str, Measured]
    density_histogram: Histogram
    n_rows: Count
    n_documents: Count
    top_percent_square_share: float | None
    sae: str
    weights_sha256: str
    store_id: str
    split: str
    fingerprint: str
    sha256: MeasuredHashes | None = None


class Example(Shape):
    """A row on which a latent is most active, with the text around it."""

    value: float
    row: Count
    document: Count
    position: Count
    index: Count
    tokens: list[str]
    values: list[float | None]

    @model_validator(mode="after")
    def _fits(self) -> "Example":
        if not self.index < len(self.tokens) == len(self.values):
            raise ValueError(f"{len(self.tokens)} tokens, {len(self.values)} values, index {self.index}")
        return self


class Latent(Shape):
    """A latent and its examples."""

    latent: Count
    density: float
    examples: list[Example]


class Examples(Shape):
    """examples.json: top-activating tokens."""

    remedy: ClassVar[str] = "delete it and run evaluate"
    fingerprint: str
    latents: list[Latent]


class Source(Shape):
    """One source of the text."""

    path: str | None = None
    kind: str | None = None
    documents: Count | None = None


class Corpus(Shape):
    """The text."""

    sources: list[Source] = []


class Cut(Shape):
    """How the text was cut into sequences."""

    mode: str | None = None
    context_length: Count | None = None


class Extraction(Shape):
    """The config of an extraction, as its plan records it."""

    corpus: Cut = Cut()


class Model(Shape):
    """The language model."""

    model: str | None = None
    revision: str | None = None
    architecture: str | None = None
    dtype: str | None = None


class StoredSite(Shape):
    """A site of the store."""

    d_model: Count
    bytes_per_token: float


class Timing(Shape):
    """How fast a store was filled."""

    rows: float | None = None
    seconds: float | None = None
    rows_per_second: float | None = None


class StoreSummary(Shape):
    """store.json: what `ActivationStore.summary` says."""

    remedy: ClassVar[str] = "delete it and run evaluate"
    store_id: str
    plan_id: str
    model: Model
    corpus: Corpus
    config: Extraction
    sites: dict[str, StoredSite]
    siblings: dict[str, list[str]] = {}
    encoding: str
    compressor: str
    n_rows: Count
    n_documents: Count
    split_rows: dict[str, Count]
    n_data_files: Count
    total_bytes: Count
    timing: Timing | None


class Environment(Shape):
    """environment.json: versions and processor of the last training."""

    remedy: ClassVar[str] = "delete it and run train"
    packages: dict[str, str | None] = {}


class LoaderLine(Shape):
    """A line of loader/<site>.jsonl: how reading batches went since the line before."""

    batch_size: Count
    seed: Count
    epoch_rows: Count
    """Rows of an epoch."""
    window_blocks: Count
    """Blocks of rows mixed together."""
    perfect_documents: float | None = None
    """Documents in a batch of a perfect shuffle, on average."""
    perfect_positions: float | None = None
    predicted_variance_ratio: float | None = None
    fill_seconds: float
    thread_seconds: float
    decode_seconds: float
    wait_seconds: float
    waits: Count
    n_bytes: Count
    seconds: float
    steps: Count
