"""The file in which the search for a wanted L0 stands: its trials, and how it ended."""

from typing import ClassVar, Literal

from pydantic import model_validator

from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.records import Count, Group, Record


class TrialPart(Group):
    """One training of the search; its files lie in match/<number>/, numbers counting from 1."""

    knob: float
    l0: float | None
    """Mean active latents of the rows below; null: training diverged."""
    sae: str
    """The fingerprint of its config.json."""
    weights_sha256: str


class MatchRecord(Record):
    """match.json: which knob was tried, and which L0 it gave."""

    kind: ClassVar[str] = "match.json"
    remedy: ClassVar[str] = "delete it and run train, which measures the trials again"
    variant: str
    site: str
    """Name of the site, or of the route."""
    l0: float
    """The wanted one."""
    tolerance: float
    """Largest |L0 / wanted - 1|."""
    knob: str
    """Path of the setting from the variant."""
    store_id: str
    filters: FilterPart
    """Held-out rows that were left out: those that training left out."""
    max_rows: Count | None
    """Of the held-out rows that are measured; null: all."""
    n_rows: Count | None
    """Rows that L0 is the mean of; null: none was measured."""
    n_documents: Count | None
    trials: list[TrialPart]
    outcome: Literal["searching", "matched", "nearest", "failed"]
    """`nearest`: no value of an integer knob fits, and the accepted one comes nearest."""
    accepted: Count | None
    """Number of the trial whose files are the SAE's."""
    reason: str | None
    """Why the search failed."""

    @model_validator(mode="after")
    def _fits(self) -> "MatchRecord":
        numbers = range(1, len(self.trials) + 1) if self.outcome in ("matched", "nearest") else (None,)
        if self.accepted not in numbers:
            raise ValueError(f"outcome {self.outcome} of {len(self.trials)} trials, but accepted is {self.accepted}")
        return self

    @property
    def name(self) -> str:
        """`<variant>@<site>`."""
        return f"{self.variant}@{self.site}"

    @property
    def taken(self) -> TrialPart | None:
        """The trial whose files are the SAE's."""
        return None if self.accepted is None else self.trials[self.accepted - 1]

    @property
    def sae(self) -> str:
        """The fingerprint of the config.json of the SAE that was taken."""
        return self.taken.sae if self.taken else "of no trial"

    @property
    def weights_sha256(self) -> str:
        """That of the SAE that was taken."""
        return self.taken.weights_sha256 if self.taken else "of no trial"
