"""interpretation.json: what language models say that latents mean, and how well the words tell where they fire.

published.json: explanations that somebody else published, as the user's files have them.
"""

from typing import ClassVar, Literal

from pydantic import JsonValue

from strata_sae.pipeline.runs.evaluation_records import Measured
from strata_sae.pipeline.runs.judging_records import Interval
from strata_sae.pipeline.runs.records import Count, Group, Record


class Scored(Group):
    """One score of one explanation: answers to windows whose truth is known."""

    true_positives: Count
    false_positives: Count
    true_negatives: Count
    false_negatives: Count
    n_failed: Count
    """Windows without a readable answer; counted in none of the four."""
    balanced_accuracy: float | None
    """(recall + true negatives / silent windows) / 2; null: no window of one kind was answered."""
    interval: Interval | None
    """Of the balanced accuracy, 95 %."""
    precision: float | None
    """On these windows, half of which are active."""
    recall: float | None
    f1: float | None
    population_precision: float | None
    """Of all rows of the population that the words name, the share on which the latent fires, at its true density."""
    correlation: float | None
    """Pearson, of the latent's value and the answer; null where it is not defined, or not part of this score."""
    auroc: float | None
    """Where the server gave probabilities."""
    token_label: float | None
    """Balanced accuracy of the latent's token label on the same windows; null: it has none."""


class ExplainedLatent(Group):
    """A latent, in words."""

    latent: Count
    explanation: str | None
    failure: str | None
    """Why there is no explanation."""
    n_active_rows: Count
    scores: dict[str, Scored]
    """By `interpretation.scores`, but the rating."""
    rating: int | None
    """Monosemanticity, 1 to 5 (FAST, section 5)."""
    rating_failure: str | None


class InterpretationOf(Group):
    """What interpretations depend on."""

    sae: str
    """The fingerprint of config.json."""
    weights_sha256: str
    store_id: str
    codes_id: str
    explainer: str
    scorer: str
    settings: dict[str, JsonValue]
    """Of the section `interpretation`, those that decide what is asked."""


class InterpretationRecord(InterpretationOf, Record):
    """interpretation.json."""

    kind: ClassVar[str] = "interpretation.json"
    remedy: ClassVar[str] = "delete it and run strata interpret"
    latents: list[ExplainedLatent]
    metrics: dict[str, Measured]
    """Over the latents: medians, their intervals, how many failed."""


class PublishedExplanation(Group):
    """An explanation as its file has it."""

    latent: Count
    text: str
    by: str
    """The model or method that made it, by the file; may be empty."""


class PublishedRecord(Record):
    """published.json."""

    kind: ClassVar[str] = "published.json"
    remedy: ClassVar[str] = "delete it and run strata interpret --published again"
    sae: str
    weights_sha256: str
    source: Literal["neuronpedia"]
    files: dict[str, str]
    """Name of each file that was read -> its sha256."""
    n_latents: Count
    explanations: list[PublishedExplanation]
    """By latent, rising."""
