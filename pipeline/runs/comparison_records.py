"""comparisons.json and stability.json: what differs between the SAEs of a run, and how alike its seeds are."""

from typing import ClassVar, Literal

from strata_sae.pipeline.runs.judging_records import Estimate, PopulationName, SeedSpread
from strata_sae.pipeline.runs.records import Count, Group, Record

ComparedMetric = Literal["r2_pooled", "l0"]
COMPARED: tuple[ComparedMetric, ...] = ("r2_pooled", "l0")

Verdict = Literal["first", "second", "differ", "not_shown", "equal", "not_matched", "no_interval"]
"""`first`, `second`: that one is better. `differ`: of L0, of which none is better. `not_shown`: what differs may be
noise. `equal`: nothing differs. `not_matched`: their L0 differ, so that none is ranked. `no_interval`: too few
documents."""


class ComparedSAE(Group):
    """An SAE in a table."""

    name: str
    """`<variant>@<site>`."""
    recipe: str
    seed: Count
    fingerprint: str
    """That of its metrics.json."""
    l0: Estimate
    value: Estimate


class Recipe(Group):
    """Variants that are equal but for the seed, or one that has no such other."""

    name: str
    """Its first variant."""
    variants: list[str]
    seeds: list[Count]
    l0: Estimate
    """Mean over its seeds; the interval is over documents."""
    value: Estimate
    l0_over_seeds: SeedSpread
    value_over_seeds: SeedSpread
    target_l0: float | None
    """Of `match` or `evaluation.target_l0`."""
    tolerance: float | None
    """How far off the target L0 counts as matched, as a share of it."""
    is_at_target: bool | None


class PairedDifference(Group):
    """Two recipes, scored on the same rows: the first minus the second."""

    first: str
    second: str
    difference: Estimate
    """Of the means over seeds; paired by document."""
    p_documents: float | None
    over_seeds: Estimate | None
    """The interval is over training seeds; null: fewer than 3 of one of them."""
    p_seeds: float | None
    n_seeds: Count
    """Training seeds of the one that has fewer."""
    p_holm: float | None
    """The larger p, adjusted over the ranked comparisons of the table; null: not one of them."""
    verdict: Verdict


class ComparisonTable(Group):
    """A metric of the SAEs of one site on one population."""

    site: str
    population: PopulationName
    metric: ComparedMetric
    n_documents: Count
    n_rows: Count
    saes: list[ComparedSAE]
    recipes: list[Recipe]
    pairs: list[PairedDifference]
    notes: list[str]


class Comparisons(Record):
    """comparisons.json: what differs between the SAEs of each site, and whether it is more than noise."""

    kind: ClassVar[str] = "comparisons.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    fingerprint: str
    """Of what was compared: the files and settings that the tables depend on."""
    tables: list[ComparisonTable]
    refused: list[str]
    """What could not be compared, and why."""


class SeedPair(Group):
    """Two SAEs of a recipe, trained from different seeds."""

    first: str
    second: str
    mcc: float
    """Mean cosine of the latents that are matched."""


class DecoderStability(Group):
    """How alike the decoders of one recipe's seeds are, beside random dictionaries of the same shape."""

    site: str
    recipe: str
    variants: list[str]
    seeds: list[Count]
    weights_sha256: list[str]
    d_sae: Count
    d_out: Count
    n_matched: Count
    """Latents of each first SAE for which a partner was sought; `d_sae` unless the SAE is wide."""
    pairs: list[SeedPair]
    mcc: SeedSpread
    """Over the pairs. Pairs that share an SAE are not independent."""
    null_mcc: SeedSpread
    """Over pairs of random dictionaries, each drawn from a seed of its own."""
    null_seed: Count


class Stability(Record):
    """stability.json: of every recipe with two seeds or more."""

    kind: ClassVar[str] = "stability.json"
    remedy: ClassVar[str] = "delete it and run evaluate"
    fingerprint: str
    """Of the weights that were compared."""
    recipes: list[DecoderStability]
    refused: list[str]
    """What could not be compared, and why."""
