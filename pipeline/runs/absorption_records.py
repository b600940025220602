"""The file of first-letter absorption: both of SAEBench's forms, with two kinds of probes, for every seed."""

from typing import ClassVar, Literal

from strata_sae.pipeline.runs.judging_records import SeedSpread
from strata_sae.pipeline.runs.records import Count, Group, Record, SAERecord

ProbesName = Literal["own", "compat"]
"""`own`: probes brought to the minimum of their objective. `compat`: trained as SAEBench trains them."""
PROBES: tuple[ProbesName, ...] = ("own", "compat")


class LetterAbsorption(Group):
    """One letter that is kept, of one seed."""

    letter: str
    probe_f1: float
    """Of the probe of the rows, on test words."""
    one_latent_f1: float
    """Of the best latent alone, on test words."""
    latents: list[Count]
    """Those that stand for the letter."""
    n_words: Count
    """Test words that the probe finds; absorption is measured on them."""
    fraction: float
    """Mean over these words."""
    full: float
    """Share of these words."""


class SeedAbsorption(Group):
    """One draw of words, prompts and what probes draw."""

    seed: Count
    labelled_store_id: str
    """Of the rows of this seed."""
    n_rows: Count
    n_letters: Count
    """With a word for training and one for testing."""
    probe_f1: float
    """Mean over these letters."""
    one_latent_f1: float
    """Mean over these letters."""
    is_converged: bool | None
    """Whether every probe reached its minimum; null: they are trained for a number of epochs."""
    n_words: Count
    """Of the kept letters."""
    without_latent: list[str]
    """Letters whose rows tell them, but no latent does: left out."""
    letters: list[LetterAbsorption]
    fraction: float | None
    """Mean over the kept letters; null: fewer are kept than are asked for."""
    full: float | None
    split_latents: float | None
    """Latents that stand for a letter, mean over the kept letters."""


class AbsorptionOfProbes(Group):
    """Mean and deviation over the seeds."""

    fraction: SeedSpread
    full: SeedSpread
    split_latents: SeedSpread
    probe_f1: SeedSpread
    one_latent_f1: SeedSpread
    seeds: list[SeedAbsorption]


class AbsorptionPart(Group):
    """Settings that the numbers depend on."""

    seeds: Count
    words_per_letter: Count | None
    min_letters: Count


class AbsorptionOf(Group):
    """What the numbers depend on."""

    sae: str
    """The fingerprint of config.json."""
    weights_sha256: str
    store_id: str
    labelled_store_ids: list[str]
    """Of the rows, a store for each seed."""
    settings: AbsorptionPart
    definition: str


class AbsorptionRecord(AbsorptionOf, Record):
    """absorption.json: first-letter absorption."""

    kind: ClassVar[str] = "absorption.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    probes: dict[ProbesName, AbsorptionOfProbes]
    fingerprint: str
    """Of what the numbers depend on."""


def not_measured(sae: SAERecord) -> str | None:
    """Why absorption is not measured of an SAE; None where it is."""
    if sae.reads or sae.writes:
        return "it reads or writes several sites, and the letter is looked for in what an SAE reads and writes at one"
    if sae.training.input_scale == "per_document":
        return "it reads rows standardised by document, and of a prompt one row is kept"
    return None
