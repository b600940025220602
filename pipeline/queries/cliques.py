"""Groups of latents: cliques of a graph of pairs, the seed's greedy group, and 4-tuples of effects.

seeds.md 2.3: `filter_for_cluster` (the greedy group) and `find_4tuples`; analysis.md row 55.
"""

import itertools
from collections import defaultdict
from typing import NamedTuple

import networkx
import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.cofiring import partners_of
from strata_sae.pipeline.queries.decoder_pairs import unit_rows
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.row_pieces import KeptCodes

MOST_EDGES = 500_000
"""Of a graph whose cliques are asked for (count): its sets of neighbours then take about 100 MB."""
MOST_CLIQUES = 100_000
"""Cliques that are looked at (count). A graph may have 3^(E/3) of them."""


class Cliques(NamedTuple):
    """Groups of latents in which every two are a pair, and which no other latent fits into."""

    groups: list[list[int]]
    """Largest first, ties by latents; the latents of a group rise."""
    is_whole: bool
    """Whether the graph has no further ones: False where more than MOST_CLIQUES were there to look at."""


class Group(NamedTuple):
    """What `greedy_group` chose, in this order."""

    latents: list[int]
    mean_cosines: list[float]
    """Of each with all that were chosen before it; 1 for the first."""


class FourTuple(NamedTuple):
    """Effects a->b, a->d and c->b are above 0 and c->d below: c undoes what a does to d, and not what it does to b."""

    a: int
    b: int
    c: int
    d: int
    weakest: float
    """The smallest size of the four effects."""


class Effects(NamedTuple):
    """Effects of the latents of one SAE (ablators) on those of another (readers), those that are not 0: [P] each."""

    ablator: np.ndarray
    reader: np.ndarray
    value: np.ndarray

    @classmethod
    def of_dense(cls, effect_ER: np.ndarray) -> "Effects":
        """From a matrix."""
        ablator, reader = np.nonzero(effect_ER)
        return cls(ablator, reader, effect_ER[ablator, reader])


def cliques(first_P: np.ndarray, second_P: np.ndarray, least_size: int = 3) -> Cliques:
    """The maximal cliques of a graph of pairs with at least `least_size` latents.

    Raises: ConfigError if `least_size` is below 2, or if the graph has more than MOST_EDGES pairs.
    """
    if least_size < 2:
        raise ConfigError(f"least size of a clique: {least_size}, but at least 2")
    if len(first_P) > MOST_EDGES:
        raise ConfigError(
            f"{len(first_P):,} pairs of latents, but cliques are looked for among at most {MOST_EDGES:,}; "
            "ask for a larger cosine"
        )
    graph = networkx.Graph(zip(first_P.tolist(), second_P.tolist(), strict=True))
    found = list(itertools.islice(networkx.find_cliques(graph), MOST_CLIQUES + 1))
    groups = [sorted(group) for group in found[:MOST_CLIQUES] if len(group) >= least_size]
    return Cliques(sorted(groups, key=lambda group: (-len(group), group)), len(found) <= MOST_CLIQUES)


def greedy_group(
    sae: CodedSAE, start: int, least_cosine: float = 0.4, size: int = 10, population: Population = "as_trained"
) -> Group:
    """Latents around one, each alike to all before it and never active together with any of them.

    Of those with a cosine of at least `least_cosine` to every chosen one and no row shared with any, the one with the
    largest mean cosine is next, ties by latent; until there are `size`, or none is left. Defaults: the seed's.
    Raises: ConfigError if there is no such latent.
    """
    chosen, means = [start], [1.0]
    together_E = partners_of(sae, start, population)
    unit_EM = unit_rows(sae.W_dec).astype(np.float64)
    is_free_E, sum_E = active(sae, population), np.zeros(sae.d_sae)
    while True:
        cosine_E = unit_EM @ unit_EM[chosen[-1]]
        is_free_E &= (cosine_E >= least_cosine) & (together_E == 0)
        is_free_E[chosen] = False
        sum_E += cosine_E
        if len(chosen) >= size or not is_free_E.any():
            return Group(chosen, means)
        best = int(np.where(is_free_E, sum_E, -np.inf).argmax())
        means.append(float(sum_E[best]) / len(chosen))
        chosen.append(best)
        together_E = partners_of(sae, best, population)


def active(sae: CodedSAE, population: Population) -> np.ndarray:
    """Whether each latent is active on at least one row of a population: bool [d_sae]."""
    return KeptCodes(sae.codes, sae.kept(population)).counts() > 0


def four_tuples(effects: Effects, treat_as_zero: float = 0.0, most: int = 100_000) -> list[FourTuple]:
    """All (a, b, c, d) with effects ab, ad, cb > treat_as_zero and cd < -treat_as_zero; the strongest first.

    Strongest: by the weakest of the four effects, ties by latents.
    Raises: ConfigError if `treat_as_zero` is below 0, or if there are more than `most`.
    """
    if treat_as_zero < 0:
        raise ConfigError(f"effects that count as zero: up to {treat_as_zero}, but at least 0")
    above: dict[int, dict[int, float]] = defaultdict(dict)
    below: dict[int, dict[int, float]] = defaultdict(dict)
    lowers: dict[int, list[int]] = defaultdict(list)
    for ablator, reader, value in zip(*(part.tolist() for part in effects), strict=True):
        if value > treat_as_zero:
            above[ablator][reader] = value
        elif value < -treat_as_zero:
            below[ablator][reader] = value
            lowers[reader].append(ablator)
    found: list[FourTuple] = []
    for a, raised in above.items():
        # Only a c that lowers what a raises can be one: few, where effects are.
        for c in {c for d in raised for c in lowers.get(d, ())} & above.keys():
            bs, ds = raised.keys() & above[c].keys(), raised.keys() & below[c].keys()
            if len(found) + len(bs) * len(ds) > most:
                raise ConfigError(f"more than {most:,} 4-tuples; treat larger effects as zero, or ask of fewer effects")
            for b, d in itertools.product(bs, ds):
                found.append(FourTuple(a, b, c, d, min(raised[b], raised[d], above[c][b], -below[c][d])))
    return sorted(found, key=lambda one: (-one.weakest, one))
