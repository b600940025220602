"""Which latents a text means: those whose firing its tokens tell best, of every SAE at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strata_sae.pipeline.queries.label_files import TokenCounts
from strata_sae.pipeline.queries.labels import make_counts
from strata_sae.pipeline.queries.opened import CodedSAE, Text


@dataclass(frozen=True, slots=True)
class Hit:
    """A latent, and how well the tokens of the text tell when it fires."""

    sae: str
    latent: int
    f1: float
    """2 count / (rows + active): of 'it fires' against 'the token is one of these', over the rows as trained."""
    count: int
    """Rows that hold one of the tokens and on which it fires."""
    active: int
    """Rows on which it fires."""
    rows: int
    """Rows that hold one of the tokens."""


def search(saes: Sequence[CodedSAE], text: Text, query: str, n: int) -> list[Hit]:
    """Of each SAE at most n latents that fire on a token of the text, the best first; ties in the order given.

    saes: on the store of `text`. Which tokens are meant: `text.tokens.matching(query)`.
    """
    ranks = text.tokens.ranks_of(text.tokens.matching(query))
    if not len(ranks):
        return []
    hits = [hit for sae in saes for hit in _hits(sae.name, counts_of(sae, text), ranks, n)]
    return sorted(hits, key=lambda hit: -hit.f1)


def rows_holding(text: Text, query: str) -> int:
    """Rows of the whole store that hold a token of the text."""
    return len(text.tokens.rows_of(text.tokens.matching(query)))


def counts_of(sae: CodedSAE, text: Text) -> TokenCounts:
    """An SAE's counts: of the file beside the codes, else made, and kept in memory."""
    if sae.token_counts is None:
        sae.token_counts = make_counts(sae, text)
    return sae.token_counts


def _hits(name: str, counts: TokenCounts, ranks: np.ndarray, n: int) -> list[Hit]:
    places = [slice(int(counts.offset[rank]), int(counts.offset[rank + 1])) for rank in ranks]
    latent = np.concatenate([counts.latent[place] for place in places])
    together_E = np.bincount(
        latent, np.concatenate([counts.together[place] for place in places]), minlength=len(counts.active)
    )
    n_rows = int(counts.rows[ranks].sum())
    fires = np.flatnonzero(together_E)
    f1 = 2 * together_E[fires] / (n_rows + counts.active[fires])
    best = np.lexsort((fires, -f1))[:n]
    return [
        Hit(name, latent, of, int(together_E[latent]), int(counts.active[latent]), n_rows)
        for latent, of in zip(fires[best].tolist(), f1[best].tolist(), strict=True)
    ]
