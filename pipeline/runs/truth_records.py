"""truth.json: how much of a toy's features an SAE has found."""

from typing import ClassVar, Literal

from strata_sae.pipeline.runs.evaluation_records import FilterPart, Measured
from strata_sae.pipeline.runs.judging_records import PopulationName
from strata_sae.pipeline.runs.records import Count, Group, Record

MOST_CHILDREN = 64
"""Children of which truth.json has numbers of their own (count)."""
ChildStatus = Literal[
    "measured", "parent carried by b_dec", "parent not found", "child not found", "one latent for both"
]
"""Whether there are two latents whose codes can say if the child took its parent's place."""


class ChildTruth(Group):
    """A feature that has a parent, in the rows that hold it. null: not defined, or a guard refused it."""

    child: Count
    parent: Count
    status: ChildStatus
    n_rows: Count
    """Scored rows with the child."""
    n_rows_fired: Count
    """Those of them in which its latent is on: what latent_absorption is a share of."""
    latent_absorption: float | None
    projection_absorption: float | None
    leakage: float | None
    suppression: float | None


class TruthScored(Group):
    """What the numbers depend on."""

    sae: str
    """The fingerprint of config.json."""
    weights_sha256: str
    store_id: str
    split: str
    population: PopulationName
    filters: FilterPart
    max_rows: Count | None
    definitions: dict[str, str]


class TruthRecord(TruthScored, Record):
    """truth.json."""

    kind: ClassVar[str] = "truth.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    recovered: dict[str, Measured]
    n_children: Count
    """Features that have a parent."""
    child_statuses: dict[ChildStatus, Count]
    """Of how many children absorption could be measured, and of how many not, and why."""
    n_child_rows: Count
    """Scored rows of children whose absorption was measured, one for each child that a row holds."""
    n_child_rows_fired: Count
    """Those of them in which the child's latent is on."""
    children: list[ChildTruth]
    """Those that are in the most rows, at most 64."""
    n_rows: Count
    n_documents: Count
    n_features: Count
    n_features_on: Count
    """Features that are on in any scored row."""
    n_latents: Count
    fingerprint: str
    """Of what the numbers depend on."""
