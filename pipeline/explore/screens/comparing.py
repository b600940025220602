"""Two SAEs on the same rows: what each latent of the one is to the other."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.queries.matching import Match, best_match
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.splits import Absorption, Split, absorptions, splits

MATCHED = 0.5
"""Jaccard of rows from which two latents that are each other's best are one: more rows are shared than not."""
ABSORBED = 0.1
"""Share of a parent's rows that one child must take for the parent to count as absorbed: less is a slip."""
ALONE = 0.1
"""Best Jaccard below which a latent is only here: nine in ten rows of any pair are not shared."""
MOST_KEPT = 16
"""Comparisons that stay in memory: each takes seconds of counting and some MB."""
KINDS = {
    "matched": "is the best match of its own best match, and more rows are shared than not",
    "split": "is no latent of the other, but several of them together are",
    "absorbed": "has one that stands for it, in whose place more special ones fire",
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
    splits: list[tuple[Split, float]]
    """Latents of the first that several of the second are together, and how alike at least; the most alike first."""
    absorptions: list[Absorption]
    """Of children that take at least ABSORBED of their parent's rows; the largest share first."""
    kind: np.ndarray
    """int8 [E]: what each latent of the first is, by its place in KINDS."""


@lru_cache(maxsize=MOST_KEPT)
def compared(first: CodedSAE, second: CodedSAE) -> Comparison:
    """Count it. Raises: ConfigError if the codes of the two are not of the same rows."""
    there, back = best_match(first, second), best_match(second, first)
    found = sorted(((one, likeness(one)) for one in splits(first, second)), key=lambda pair: -pair[1])
    clean = [pair for pair in found if pair[1] >= MATCHED]
    absorbed = [one for one in absorptions(first, second) if one.of_parent >= ABSORBED]
    return Comparison(there, back, clean, absorbed, _kinds(first, there, back, clean, absorbed))


def likeness(split: Split) -> float:
    """A lower bound of the Jaccard of a parent's rows and those of its children together.

    Rows of children outside of the parent are counted once for each child. A latent that fires everywhere has many
    children by chance; this tells them from those that are the parent together.
    """
    outside = sum(child.together * (1 / child.inside - 1) for child in split.children if child.inside > 0)
    return split.union * split.rows / (split.rows + outside)


def _kinds(
    first: CodedSAE, there: Match, back: Match, found: list[tuple[Split, float]], absorbed: list[Absorption]
) -> np.ndarray:
    """What each latent is: the first of dead, matched, split, absorbed and alone that holds; else partly."""
    names, E = list(KINDS), np.arange(first.d_sae)
    kind = np.full(first.d_sae, names.index("partly"), np.int8)
    kind[there.jaccard < ALONE] = names.index("alone")
    kind[[one.parent for one in absorbed]] = names.index("absorbed")
    kind[[one.parent for one, _ in found]] = names.index("split")
    mutual = (there.other_latent >= 0) & (back.other_latent[there.other_latent] == E)
    kind[mutual & (there.jaccard >= MATCHED)] = names.index("matched")
    kind[first.codes.table["count"] == 0] = names.index("dead")
    return kind
