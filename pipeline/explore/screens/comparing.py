"""Two SAEs on the same rows: what each latent of the one is to the other."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.queries.matching import Match, best_match
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.splits import Absorption, Split, absorptions, splits

MATCHED = 0.5
"""Jaccard of rows from which two latents that are each other's best are one: more rows are shared than not."""
ALONE = 0.1
"""Best Jaccard below which a latent is only here: nine in ten rows of any pair are not shared."""
MOST_KEPT = 16
"""Comparisons that stay in memory: each takes seconds of counting and some MB."""
KINDS = {
    "matched": "is the best match of its own best match, and more rows are shared than not",
    "split": "shares its rows out among several latents of the other",
    "absorbed": "is silent in the other where a more special latent fires in its place",
    "partly": "has something alike in the other",
    "alone": "has nothing alike in the other",
    "dead": "fires on none of these rows",
}


class Comparison(NamedTuple):
    """What two SAEs share, on the rows that both were trained on. E latents of the first, F of the second."""

    there: Match
    """Of each latent of the first, its best match in the second."""
    back: Match
    """Of each latent of the second."""
    splits: list[Split]
    """Latents of the first, and of the second those that share their rows out."""
    absorptions: list[Absorption]
    kind: np.ndarray
    """int8 [E]: what each latent of the first is, by its place in KINDS."""


@lru_cache(maxsize=MOST_KEPT)
def compared(first: CodedSAE, second: CodedSAE) -> Comparison:
    """Count it. Raises: ConfigError if the codes of the two are not of the same rows."""
    there, back = best_match(first, second), best_match(second, first)
    found, absorbed = splits(first, second), absorptions(first, second)
    return Comparison(there, back, found, absorbed, _kinds(first, there, back, found, absorbed))


def _kinds(
    first: CodedSAE, there: Match, back: Match, found: list[Split], absorbed: list[Absorption]
) -> np.ndarray:
    """Of what several hold, the first counts: dead, matched, split, absorbed, alone, and partly of the rest."""
    names, E = list(KINDS), np.arange(first.d_sae)
    kind = np.full(first.d_sae, names.index("partly"), np.int8)
    kind[there.jaccard < ALONE] = names.index("alone")
    kind[[one.parent for one in absorbed]] = names.index("absorbed")
    kind[[one.parent for one in found]] = names.index("split")
    mutual = (there.other_latent >= 0) & (back.other_latent[there.other_latent] == E)
    kind[mutual & (there.jaccard >= MATCHED)] = names.index("matched")
    kind[first.codes.table["count"] == 0] = names.index("dead")
    return kind
