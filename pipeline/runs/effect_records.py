"""ablations/<what>/<part>.json: what ablated latents of an SAE do to the latents of another SAE, or to predictions."""

from typing import ClassVar

from strata_sae.pipeline.runs.evaluation_records import FilterPart
from strata_sae.pipeline.runs.judging_records import JudgedModel
from strata_sae.pipeline.runs.records import Count, Group, Record


class SAEPart(Group):
    """An SAE that takes part in a measurement."""

    sae: str
    """The fingerprint of its config.json."""
    weights_sha256: str
    filters: FilterPart
    """Of its run's training: which of its rows count."""


class EffectsOf(Group):
    """What measured effects depend on, beside the latents that were ablated."""

    ablated: SAEPart
    """Whose latents are set to 0."""
    store_id: str
    reader: SAEPart | None
    """Whose latents are watched; null: the model's predictions."""
    population: str
    """Rows on which latents are ablated, and in which effects are counted."""
    model: JudgedModel
    max_rows: Count | None
    """Held-out rows, in whole sequences; null: all."""
    n_kept: Count
    """Effects of each latent that are kept: the largest of either sign."""
    definition: str


class AblatedLatent(Group):
    """A latent that was ablated."""

    latent: Count
    n_sequences: Count
    """In which it is active."""
    active_rows: Count
    activation: float
    """Sum over its active rows."""
    kl: float | None
    """Sum over all rows of KL(clean || ablated) of the next token (nat); null: predictions were not looked at."""
    n_effects: Count
    """Of it in the arrays, one after the other."""


class EffectRecord(EffectsOf, Record):
    """The record of a part; written after its arrays, so that its presence means that they are whole."""

    kind: ClassVar[str] = "ablations.json"
    remedy: ClassVar[str] = "delete it and ask strata analyze again"
    n_rows: Count
    """In the sequences."""
    n_sequences: Count
    n_readers: Count
    """Latents of the reader, or words of the vocabulary."""
    latents: list[AblatedLatent]
    arrays_sha256: str
