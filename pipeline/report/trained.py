"""One SAE of a run as the report reads it: its records, and every metric that they hold."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from strata_sae.pipeline.runs.evaluation_records import Examples, Measured, Metrics
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.interpretation_records import InterpretationRecord, PublishedRecord
from strata_sae.pipeline.runs.label_records import TokenLabelRecord
from strata_sae.pipeline.runs.records import CurveLine, Ending, ImportedPart, SAERecord


@dataclass(frozen=True)
class Trained:
    """One SAE of the run. None and an empty list stand for what is not there yet, or is not shown."""

    variant: str
    site: str
    config: SAERecord | None
    training: Ending | None
    metrics: Metrics | None
    examples: Examples | None
    curves: list[CurveLine]
    refused: bool = False
    """Whether how it ended, or its scores, are there but not shown, since something does not match."""
    folder: VariantFolder = field(default_factory=lambda: VariantFolder(Path()))
    """Where its files lie."""
    labels: TokenLabelRecord | None = None
    """How well tokens tell when its latents fire; None where no codes were made, which is not missed."""
    interpretation: InterpretationRecord | None = None
    """What language models say of its latents; None where nobody asked."""
    published: PublishedRecord | None = None
    """What others published of its latents."""

    @property
    def diverged(self) -> bool:
        """Whether training was stopped because loss or gradients were no longer finite."""
        return self.training is not None and self.training.status == "diverged"

    @property
    def finished(self) -> bool:
        """Whether training reached its last step."""
        return self.training is not None and self.training.status == "finished"

    @property
    def imported(self) -> ImportedPart | None:
        """The files of another library that it was read from; None: it was trained here."""
        return self.config.imported if self.config else None

    @property
    def ending(self) -> tuple[str | None, int | None]:
        """How it ended, and after how many updates: `imported` after none that anybody here knows of."""
        if self.training is None:
            return None, None
        return ("imported", None) if self.imported else (self.training.status, self.training.n_steps)

    def value(self, metric: str) -> float | None:
        """A metric's value, None where it was not measured."""
        measured = self.measured.get(metric)
        return measured.value if measured else None

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """Every metric of the rows as trained on: of its scores, its token labels, and its explanations."""
        records = (self.metrics, self.labels, self.interpretation)
        scores, labels, words = (record.metrics if record else {} for record in records)
        return scores | labels | words
