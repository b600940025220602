"""interpretation.json: what language models say that latents mean, and how well the words tell where they fire.

published.json: explanations that somebody else published, as the user's files have them.
"""

from collections import Counter
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from strata_sae.pipeline.runs.evaluation_records import FilterPart, Measured
from strata_sae.pipeline.runs.judging_records import Interval
from strata_sae.pipeline.runs.records import Count, Group, Record

Share = Annotated[float, Field(ge=0, le=1)]
MOST_CHARACTERS = 2000
"""Of an explanation."""
Words = Annotated[str, Field(max_length=MOST_CHARACTERS)]
HEADLINE = "detection"
"""The score that stands for an explanation where one is shown: of whole windows, without marked tokens."""
GOOD_RATING = 4
"""From which FAST (section 5) counts a latent as monosemantic."""


class OfKind(Group):
    """The windows of one kind, and what was answered."""

    n_windows: Count
    n_named: Count
    """Answered with yes: the words fit them."""
    n_failed: Count
    """Without a readable answer."""


class Scored(Group):
    """One score of one explanation: answers to windows whose truth is known."""

    true_positives: Count
    false_positives: Count
    true_negatives: Count
    false_negatives: Count
    n_failed: Count
    """Windows without a readable answer; counted in none of the four."""
    kinds: dict[str, OfKind]
    """How each kind of windows was answered: what the other numbers are made of."""
    balanced_accuracy: Share | None
    """(recall + true negatives / silent windows) / 2; null: no window of one truth was answered."""
    interval: Interval | None
    """Of the balanced accuracy; windows of one document count as one."""
    precision: Share | None
    """On these windows, of which about half are active; null: none was named."""
    recall: Share | None
    f1: Share | None
    population_precision: Share | None
    """Of all windows of the population that the words name, the share in which the latent fires, at the share of such
    windows in the population; null where it is not defined, or no part of this score."""
    population_interval: Interval | None
    """Of the population's precision."""
    correlation: float | None
    """Pearson, of the window's largest value and the answer; null where it is not defined, or no part of this score."""
    token_label: Share | None
    """Balanced accuracy of the latent's token label, its whole set of tokens, on the answered windows but near misses;
    null: it has no label, or windows of one truth alone were answered."""
    lift: Annotated[float, Field(ge=-1, le=1)] | None
    """Balanced accuracy on the same windows, minus `token_label`. Near misses are silent windows that hold a token of
    the label: the label is wrong on each, so they would flatter every explanation."""

    @property
    def n_windows(self) -> int:
        """Windows that were asked about (count)."""
        named = self.true_positives + self.false_positives
        return named + self.true_negatives + self.false_negatives + self.n_failed


class ExplainedLatent(Group):
    """A latent, in words."""

    latent: Count
    explanation: Words | None
    failure: str | None
    """Why there is no explanation."""
    n_active_rows: Count
    """Of the population."""
    scores: dict[str, Scored]
    """By `interpretation.scores`, but the rating."""
    rating: Annotated[int, Field(ge=1, le=5)] | None
    """Monosemanticity, 1 to 5 (FAST, section 5)."""
    rating_failure: str | None


class InterpretationOf(Group):
    """What interpretations depend on."""

    sae: str
    """The fingerprint of config.json."""
    weights_sha256: str
    store_id: str
    codes_id: str
    population: Literal["as_trained"]
    filters: FilterPart
    """Of training: which rows the population is, of which windows, densities and precisions are."""
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

    def value(self, metric: str) -> float | None:
        """Of a metric; None: it is not defined, or not there."""
        return self.metrics[metric].value if metric in self.metrics else None

    def interval(self, metric: str) -> tuple[float | None, float | None]:
        """The 95 % interval of a metric over latents, as `value`."""
        return self.value(f"{metric}_low"), self.value(f"{metric}_high")


class PublishedExplanation(Group):
    """An explanation as its file has it."""

    latent: Count
    text: Words
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

    @property
    def n_explained(self) -> int:
        """Latents with an explanation (count)."""
        return len({one.latent for one in self.explanations})

    @property
    def makers(self) -> list[str]:
        """Those who made the most explanations, at most three, as far as the files name them."""
        return [name for name, _ in Counter(one.by for one in self.explanations if one.by).most_common(3)]
