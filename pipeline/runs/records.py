"""The files that training writes and other stages read: one model for each, for the writer, the reader and the tests.

Keys that are unknown or missing are errors. The settings of an architecture, a term or the training loop are checked by
their own models, where those are built; here stand the keys that other stages read, and the rest is plain data.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from strata_sae.pipeline.runs.migration import VERSION

Count = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(gt=0)]


class Group(BaseModel):
    """A part of a record: exact types, no infinite numbers, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class OpenGroup(Group):
    """A part of a record with further keys, which a registry or the provenance of a store names."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    def further(self) -> dict[str, JsonValue]:
        """The keys that this model does not name."""
        return self.__pydantic_extra__ or {}


class Record(Group):
    """A whole file, or a line of one."""

    kind: ClassVar[str]
    """Its name in the tables of `migration`."""
    remedy: ClassVar[str]
    """What to do about a file that is not this record."""
    has_own_fingerprint: ClassVar[bool] = False
    """Whether the key `fingerprint` is the hash of the other keys, as the file spells them."""
    version: Literal[2] = VERSION


class SitePart(Group):
    """One of several sites that are read or written side by side."""

    site: str
    width: Width
    scale: float


class SAEPart(OpenGroup):
    """Settings of an SAE; further keys are the architecture's."""

    architecture: str
    d_sae: Width


class TrainingPart(OpenGroup):
    """Settings of the training loop; further keys are `TrainingSettings`'."""

    batch_size: Count
    n_steps: Count
    """Both 0: this SAE was imported, not trained."""
    break_even_density: float
    input_scale: Literal["statistics", "none", "per_document"]


class TermPart(OpenGroup):
    """Settings of a loss term; further keys are the term's."""


class ResamplingPart(OpenGroup):
    """Settings of resampling: keys of `ResamplingSettings`."""


class ParentPart(Group):
    """The finished SAE whose weights an extension began with; it lies in the same run."""

    name: str
    """`<variant>@<site>`: its folder in variants/."""
    fingerprint: str
    weights_sha256: str
    n_steps: Count
    """Updates made before, by it and by its own parents: the number of the extension's first batch."""


class ImportedPart(Group):
    """The files of another library that an SAE was read from. Nothing here trained it."""

    format: str
    """Name in FORMATS."""
    path: str
    sha256: dict[str, str]
    """Every file that was read, by name -> its sha256."""
    facts: dict[str, JsonValue]
    """What the files say, by their own names."""


class SAERecord(Record):
    """config.json: everything that the bits of an SAE depend on."""

    kind: ClassVar[str] = "config.json"
    remedy: ClassVar[str] = "delete its folder and train this SAE again"
    has_own_fingerprint: ClassVar[bool] = True
    variant: str
    site: str
    """Name of the site, or of the route."""
    seed: Count
    sae: SAEPart
    objective: dict[str, TermPart]
    training: TrainingPart
    resampling: ResamplingPart | None
    store_id: str
    """Of the store of the first site that is read."""
    plan_id: str
    d_out: Width
    d_in: Width | None
    """Width of what is read; null: `d_out`."""
    input_scale: float
    """Codes of raw rows times this are the trainer's; 1 where training saw them raw or standardised by document."""
    reads: list[SitePart]
    """Of a transcoder or crosscoder; empty for an SAE of one site."""
    writes: list[SitePart]
    store_ids: dict[str, str]
    """Site -> store, of a transcoder or crosscoder."""
    parent: ParentPart | None
    """Of an extension (`train --extend`); null: training began with initial weights."""
    imported: ImportedPart | None = None
    """Of an SAE that another library trained: `training` then has 0 steps of 0 rows, and there is no objective."""
    fingerprint: str

    @model_serializer(mode="wrap")
    def _without_what_is_not_imported(self, handler: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        """An SAE trained here is spelt as before there were others, so that its fingerprint stays what it was."""
        data: dict[str, JsonValue] = handler(self)
        return data if self.imported else {key: value for key, value in data.items() if key != "imported"}

    @property
    def name(self) -> str:
        """`<variant>@<site>`."""
        return f"{self.variant}@{self.site}"


class Thresholds(Group):
    """Inference thresholds in raw units; null where there is none."""

    calibrated: float | None
    running_mean: float | None


class FinalHashes(Group):
    """sha256 of what training left behind."""

    weights: str
    curves: str
    state: str | None


class KeptPart(Group):
    """Weights of a share of the run, in checkpoints/kept_<step>/."""

    step: Count
    sha256: str


class Ending(Record):
    """training.json: how training ended."""

    kind: ClassVar[str] = "training.json"
    remedy: ClassVar[str] = "delete its folder and train this SAE again"
    fingerprint: str
    """That of config.json."""
    status: Literal["finished", "diverged", "kept"]
    """`kept`: of weights of a share of the run, beside which the file lies."""
    diverged_at_step: Count | None
    stopped_at_step: Count | None
    """Where held-out losses ended training; null: it went on to its last step."""
    best_step: Count | None
    """Step of the weights that were kept, of the lowest held-out loss, diverged or not; null: the last ones were."""
    reason: str | None
    """Why it diverged or stopped early."""
    n_steps: Count
    """Updates made."""
    rows: Count
    """Rows learnt from."""
    threshold: Thresholds
    kept: list[KeptPart]
    """Weights of shares of the run, beside the final ones."""
    sha256: FinalHashes


class State(Record):
    """state.json of a checkpoint."""

    kind: ClassVar[str] = "state.json"
    remedy: ClassVar[str] = "an older checkpoint is used"
    step: Count
    curves_bytes: Count
    curves_sha256: str | None
    config: SAERecord
    sha256: str


def _finite(value: JsonValue) -> JsonValue:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measure = Annotated[int | float | None, BeforeValidator(_finite)]
"""A number, or null where JSON has no spelling for it (NaN, infinity)."""


COSINE_BINS = 200
"""Bins of equal width from -1 to 1 in which cosines are counted (count)."""
# Most cosines of a wide SAE are within 0.2 of 0: bins of 0.01 show how they spread.


class Similarity(Group):
    """How similar the rows of W_dec are at a share of the run."""

    share: float
    """Of the run, 0 to 1; the line is the first that is logged at it or after it."""
    pairs: list[Count]
    """Pairs of latents in each of COSINE_BINS bins of their cosine."""
    largest: list[Count]
    """Latents in each bin of their largest cosine with another one."""
    latents: list[Count]
    """The latents that are watched, rising."""
    cosines: list[list[float]]
    """Their cosines with each other."""


class CurveLine(Record):
    """A line of curves.jsonl: one update; in units of the rows that training saw. Further keys: terms and monitors."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Measure] = Field(init=False)
    kind: ClassVar[str] = "curves.jsonl"
    remedy: ClassVar[str] = "delete its folder and train this SAE again"
    step: Count
    rows: Count
    loss: Measure
    l0: Measure
    batch_r2: Measure
    dead_latents: Count
    learning_rate: float
    threshold: Measure
    gradient_norm: Measure
    similarity: Similarity | None
    """At some shares of the run; null in the other lines."""

    def with_further(self, further: Mapping[str, float | int]) -> "CurveLine":
        """The line with more quantities, by name."""
        return self.model_validate(self.model_dump() | dict(further))

    def numbers(self) -> dict[str, Measure]:
        """Every quantity of the line, by name."""
        return self.model_dump(exclude={"version", "similarity"})

    def value(self, name: str) -> Measure:
        """One quantity; None where the line does not hold it."""
        further = self.__pydantic_extra__ or {}
        return further[name] if name in further else getattr(self, name, None)


class LoaderLine(Record):
    """A line of loader/<site>.jsonl: how reading batches went since the line before, by the clock."""

    kind: ClassVar[str] = "loader.jsonl"
    remedy: ClassVar[str] = "it is left out"
    batch_size: Count
    seed: Count
    epoch_rows: Count
    """Rows of an epoch."""
    window_blocks: Count
    """Blocks of rows mixed together."""
    perfect_documents: float | None
    """Documents in a batch of a perfect shuffle, on average; null where rows are too scattered to know."""
    perfect_positions: float | None
    predicted_variance_ratio: float | None
    fill_seconds: float
    thread_seconds: float
    decode_seconds: float
    wait_seconds: float
    waits: Count
    n_bytes: Count
    seconds: float
    steps: Count
