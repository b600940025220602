"""probing.json: what k-sparse probes of labelled rows found."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.judging_records import SeedSpread
from strata_sae.pipeline.runs.records import Count, Group, Record, Width


class Scores(Group):
    """Of the probes of all seeds, on their test rows."""

    auc: SeedSpread
    accuracy: SeedSpread
    f1: SeedSpread
    """Mean of both classes' F1, weighted by their rows."""
    auc_by_seed: list[float]
    """In the order of the seeds: two SAEs are compared seed by seed, since both saw the same draws."""


class Probe(Group):
    """Of the k latents whose class means differ most."""

    k: Width
    scores: Scores
    latents: list[list[Count]]
    """Of each seed, the first one first."""


class Task(Group):
    """A task with two classes, and what probes of this SAE and of the raw rows score on it."""

    name: str
    source: Literal["texts", "tokens"]
    """`texts`: the last token of labelled texts; `tokens`: held-out rows of the store, labelled by their tokens."""
    store_id: str
    """Of the store that holds the rows."""
    n_negative: Count
    """Rows of class 0 that there are."""
    n_positive: Count
    n_train: Count
    """Rows of a draw: the least of all seeds."""
    n_test: Count
    n_documents: Count
    """Texts, or held-out documents with labelled rows."""
    probes: list[Probe]
    dense: Scores
    """The same probe on all numbers of the raw row."""


class TaskLeftOut(Group):
    """A task that could not be probed."""

    name: str
    reason: str


class ProbedAs(Group):
    """What the scores depend on."""

    sae: str
    """The fingerprint of config.json."""
    weights_sha256: str
    store_id: str
    split: str
    filters: FilterPart
    """Of rows that tokens label; rows of texts are taken as they are."""
    seeds: list[Count]
    """Of the draws of rows."""
    k: list[Width]
    texts: Count
    token_rows: Count
    tasks: dict[str, str]
    """Task -> id of the store that its rows are from, or why there is none."""
    definition: str


class ProbingRecord(ProbedAs, Record):
    """probing.json: scores of probes, and what they were computed from."""

    kind: ClassVar[str] = "probing.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    probed: list[Task]
    left_out: list[TaskLeftOut] = Field(default=[])
    fingerprint: str
    """Of what the scores depend on."""

    @model_validator(mode="after")
    def _fits(self) -> "ProbingRecord":
        for task in self.probed:
            for probe in task.probes:
                if not len(probe.latents) == len(probe.scores.auc_by_seed) == len(self.seeds):
                    raise ValueError(f"{task.name}: k {probe.k}: not one probe for each of {len(self.seeds)} seeds")
        return self
