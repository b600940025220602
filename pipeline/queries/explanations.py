"""What is known in words of an SAE's latents: by `strata interpret`, and by files that others published."""

from typing import NamedTuple

from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.runs.chain import read_interpretation, read_published
from strata_sae.pipeline.runs.interpretation_records import (
    HEADLINE,
    ExplainedLatent,
    InterpretationRecord,
    PublishedExplanation,
    PublishedRecord,
)

PUBLISHED = "published"
"""What `Explained.by` ends in where somebody else made the explanation."""


class Explained(NamedTuple):
    """A latent in words."""

    text: str
    by: str
    """The model that wrote them; of published ones also that they are."""
    is_published: bool
    balanced_accuracy: float | None
    """Of detection on unseen documents; None: not scored."""
    lift: float | None
    """Of balanced accuracy over the token label's, on the windows but near misses (Scored.lift)."""
    rating: int | None
    interval: tuple[float, float] | None = None
    """Of the balanced accuracy, 95 %."""
    n_failed: int = 0
    """Windows of detection without a readable answer."""

    @property
    def maker(self) -> str:
        """The model or method that wrote them; of published ones it may be empty."""
        return self.by.removesuffix(PUBLISHED).removesuffix(", ") if self.is_published else self.by

    @property
    def score(self) -> str:
        """How well they tell when the latent fires, in words; empty: not scored."""
        if self.balanced_accuracy is None:
            return ""
        span = f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})" if self.interval else ""
        lift = "" if self.lift is None else f", {self.lift:+.3f} over its token label"
        failed = f", {self.n_failed:,} windows without answer" if self.n_failed else ""
        return f"detection: balanced accuracy {self.balanced_accuracy:.3f}{span} on other documents{lift}{failed}"


class Explanations:
    """All that is known of one SAE. Those made here come before published ones."""

    def __init__(self, found: dict[int, list[Explained]]) -> None:
        self._found = found

    def __len__(self) -> int:
        """Latents of which anything is known (count)."""
        return len(self._found)

    def of(self, latent: int) -> Explained | None:
        """The explanation of a latent, the first where there are several; None: there is none."""
        found = self._found.get(latent)
        return found[0] if found else None

    def all_of(self, latent: int) -> list[Explained]:
        """All that is known of a latent, what was made here first, then in the order of the published files."""
        return list(self._found.get(latent, ()))


def explanations_of(sae: CodedSAE) -> Explanations:
    """What the files beside an SAE say; they are read anew at each call.

    Raises: CheckpointError if they are of other weights, codes or rows, or damaged.
    """
    folder, found = sae.folder, dict[int, list[Explained]]()
    if folder.interpretation.exists():
        record = read_interpretation(folder, sae.record, sae.training).record
        for key, is_there, is_here in (
            ("codes_id", record.codes_id, sae.codes.id),
            ("filters", str(record.filters), str(sae.labels_of.filters)),
        ):
            if is_there != is_here:
                raise CheckpointError(
                    f"{folder.interpretation}: {key}: is {is_there[:80]}, but here it is {is_here[:80]}; "
                    f"{InterpretationRecord.remedy}"
                )
        for latent in record.latents:
            if latent.explanation is not None:
                found.setdefault(latent.latent, []).append(_made_here(latent, latent.explanation, record.explainer))
    if folder.published.exists():
        published: PublishedRecord = read_published(folder, sae.record, sae.training).record
        for one in published.explanations:
            found.setdefault(one.latent, []).append(_published(one))
    return Explanations(found)


def _made_here(latent: ExplainedLatent, text: str, explainer: str) -> Explained:
    scored = latent.scores.get(HEADLINE)
    interval = scored.interval if scored else None
    return Explained(
        text=text,
        by=explainer,
        is_published=False,
        balanced_accuracy=scored.balanced_accuracy if scored else None,
        lift=scored.lift if scored else None,
        rating=latent.rating,
        interval=(interval.low, interval.high) if interval else None,
        n_failed=scored.n_failed if scored else 0,
    )


def _published(one: PublishedExplanation) -> Explained:
    by = f"{one.by}, {PUBLISHED}" if one.by else PUBLISHED
    return Explained(one.text, by, is_published=True, balanced_accuracy=None, lift=None, rating=None)
