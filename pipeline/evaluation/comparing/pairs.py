"""What is said of two recipes: their paired difference, over documents and over training seeds, and the verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from strata_sae.pipeline.evaluation.comparing.scored import TOLERANCE, ScoredSAE, TargetL0
from strata_sae.pipeline.evaluation.comparing.spread import spread_over_seeds
from strata_sae.pipeline.reading.intervals import (
    LEVEL,
    MIN_SEEDS,
    Noisy,
    Sums,
    difference_of_ratios,
    difference_of_seeds,
    holm,
    mean_of_seeds,
    ratio,
)
from strata_sae.pipeline.runs.comparison_records import ComparedMetric, PairedDifference, Recipe, Verdict
from strata_sae.pipeline.runs.judging_records import Estimate, PopulationName

EQUAL = 1e-6
"""Differences no larger are none: of R2; of L0, as a share. They are of float32 batches."""


def estimate(metric: ComparedMetric, numerators: Sums, weights: Sums) -> Estimate:
    """A metric of one SAE from its sums by document."""
    return ratio(numerators, weights, minus_from=None if metric == "l0" else 1.0).estimate


@dataclass(frozen=True)
class SeedGroup:
    """SAEs that are equal but for the seed, and what a metric is over them."""

    saes: Sequence[ScoredSAE]
    metric: ComparedMetric
    population: PopulationName

    @cached_property
    def by_seed(self) -> dict[int, ScoredSAE]:
        """One SAE for each seed: a second one of the same seed is the same SAE again."""
        return {sae.record.seed: sae for sae in reversed(self.saes)}

    @property
    def name(self) -> str:
        """Its first variant."""
        return self.saes[0].folder.variant

    @property
    def wanted(self) -> TargetL0 | None:
        """The L0 at which it is to be compared."""
        return self.saes[0].wanted

    def sums(self, metric: ComparedMetric) -> tuple[Sums, Sums]:
        """Numerator, the mean over its seeds, and weight of a metric, by document."""
        parts = [sae.parts(metric, self.population) for sae in self.by_seed.values()]
        return np.mean([numerators for numerators, _ in parts], axis=0), parts[0][1]

    def values(self, metric: ComparedMetric) -> dict[int, float | None]:
        """Seed -> the metric."""
        saes = self.by_seed.items()
        return {seed: estimate(metric, *sae.parts(metric, self.population)).value for seed, sae in saes}

    @cached_property
    def l0(self) -> float:
        """Mean over its seeds; 0 where there is no row."""
        return estimate("l0", *self.sums("l0")).value or 0.0

    @property
    def is_at_target(self) -> bool | None:
        """Whether its L0 is the wanted one; None: none is wanted."""
        return None if self.wanted is None else abs(self.l0 / self.wanted.l0 - 1) <= self.wanted.tolerance

    def record(self) -> Recipe:
        """As the file says it."""
        return Recipe(
            name=self.name,
            variants=[sae.folder.variant for sae in self.saes],
            seeds=[sae.record.seed for sae in self.saes],
            l0=estimate("l0", *self.sums("l0")),
            value=estimate(self.metric, *self.sums(self.metric)),
            l0_over_seeds=spread_over_seeds([*self.values("l0").values()]),
            value_over_seeds=spread_over_seeds([*self.values(self.metric).values()]),
            target_l0=None if self.wanted is None else self.wanted.l0,
            tolerance=None if self.wanted is None else self.wanted.tolerance,
            is_at_target=self.is_at_target,
        )


def all_pairs(groups: Sequence[SeedGroup]) -> list[PairedDifference]:
    """Every two recipes of a table. Holm's adjustment is over those that are tested: matched, not equal, with a p."""
    found = [_pair(first, second) for first, second in combinations(groups, 2)]
    tested = [place for place, pair in enumerate(found) if pair.verdict == "not_shown"]
    adjusted = holm([max(found[place].p_documents or 0.0, found[place].p_seeds or 0.0) for place in tested])
    for place, p in zip(tested, adjusted, strict=True):
        pair = found[place]
        verdict = _shown(groups[0].metric, pair.difference.value or 0.0) if p < 1 - LEVEL else pair.verdict
        found[place] = pair.model_copy(update={"p_holm": p, "verdict": verdict})
    return found


def is_matched(first: SeedGroup, second: SeedGroup) -> bool:
    """Whether both are at one target L0, or their L0 are within 2 % of each other."""
    if first.wanted and second.wanted and first.is_at_target and second.is_at_target:
        return first.wanted.l0 == second.wanted.l0
    low, high = sorted((first.l0, second.l0))
    return low > 0 and high / low - 1 <= TOLERANCE


def _pair(first: SeedGroup, second: SeedGroup) -> PairedDifference:
    metric = first.metric
    (first_sums, weights), (second_sums, _) = first.sums(metric), second.sums(metric)
    documents = difference_of_ratios(first_sums, second_sums, weights, of_what_is_left=metric != "l0")
    seeds = _over_seeds(first, second)
    return PairedDifference(
        first=first.name,
        second=second.name,
        difference=documents.estimate,
        p_documents=documents.p,
        over_seeds=None if seeds is None else seeds.estimate,
        p_seeds=None if seeds is None else seeds.p,
        n_seeds=min(len(first.by_seed), len(second.by_seed)),
        p_holm=None,
        verdict=_untested(first, second, documents),
    )


def _untested(first: SeedGroup, second: SeedGroup, documents: Noisy) -> Verdict:
    """What stands before the tests: `not_shown` for a pair that is to be tested."""
    value = documents.estimate.value
    if value is None or abs(value) <= EQUAL * (max(first.l0, second.l0) if first.metric == "l0" else 1.0):
        return "equal"
    if first.metric != "l0" and not is_matched(first, second):
        return "not_matched"
    return "no_interval" if documents.p is None else "not_shown"


def _shown(metric: ComparedMetric, difference: float) -> Verdict:
    if metric == "l0":
        return "differ"
    return "first" if difference > 0 else "second"


def _over_seeds(first: SeedGroup, second: SeedGroup) -> Noisy | None:
    """The difference with its noise over training seeds, paired by seed where both have MIN_SEEDS in common.

    Equal seeds start from equal weights and see equal batches. None: one of them has too few seeds.
    """
    one, two = first.values(first.metric), second.values(first.metric)
    if min(len(one), len(two)) < MIN_SEEDS:
        return None
    known_one = {seed: value for seed, value in one.items() if value is not None}
    known_two = {seed: value for seed, value in two.items() if value is not None}
    common = known_one.keys() & known_two.keys()
    if len(common) >= MIN_SEEDS:
        return mean_of_seeds([known_one[seed] - known_two[seed] for seed in sorted(common)])
    return difference_of_seeds([*known_one.values()], [*known_two.values()])
