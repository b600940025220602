"""The best match of every latent in another SAE on the same rows: of another site, seed, width or run."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.machine.compiled.cofiring import best_jaccard
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.row_pieces import KeptCodes, Told, blocks_together
from strata_sae.stores import aligned


class Match(NamedTuple):
    """Of each latent the latent of another SAE whose rows are most like its own."""

    other_latent: np.ndarray
    """int64 [E]; -1 where no latent of the other shares a row with it."""
    jaccard: np.ndarray
    """float32 [E]: rows of both / rows of at least one; 0 where there is no match."""
    together: np.ndarray
    """int64 [E]: rows of both."""


def best_match(
    mine: CodedSAE, other: CodedSAE, population: Population = "as_trained", told: Told | None = None
) -> Match:
    """Of each latent of `mine` the latent of `other` with the largest Jaccard index of their rows, ties by latent.

    Rows count that belong to the population of both SAEs: `as_trained` is what the filters of both leave.
    Raises: ConfigError if row n of the one's store is not row n of the other's.
    """
    first, second = kept_of_both(mine, other, population)
    count_E, count_F = first.counts(), second.counts()
    found = Match(np.full(mine.d_sae, -1), np.zeros(mine.d_sae, np.float32), np.zeros(mine.d_sae, np.int64))
    for start, together_BF in blocks_together(first, second, told=told):
        block = slice(start, start + len(together_BF))
        for whole, part in zip(found, best_jaccard(together_BF, count_E[block], count_F), strict=True):
            whole[block] = part
    return found


def kept_of_both(mine: CodedSAE, other: CodedSAE, population: Population) -> tuple[KeptCodes, KeptCodes]:
    """The codes of two SAEs on the rows that belong to the population of both, in pieces of the same rows.

    Raises: ConfigError as `best_match`.
    """
    check_same_rows(mine, other)
    kept_N = mine.kept(population) & other.kept(population)
    first, second = KeptCodes(mine.codes, kept_N), KeptCodes(other.codes, kept_N)
    rows_at_once = min(first.rows_at_once, second.rows_at_once)
    return KeptCodes(mine.codes, kept_N, rows_at_once), KeptCodes(other.codes, kept_N, rows_at_once)


def check_same_rows(mine: CodedSAE, other: CodedSAE) -> None:
    """Raises: ConfigError if the codes of two SAEs are not of the same rows of the same store."""
    first, second = mine.codes.plan, other.codes.plan
    why = None
    if first.n_rows != second.n_rows:
        why = f"their stores have {first.n_rows:,} and {second.n_rows:,} rows"
    elif differing := [s for s in first.store_ids if second.store_ids.get(s, first.store_ids[s]) != first.store_ids[s]]:
        ids = (plan.store_ids[differing[0]][:12] for plan in (first, second))
        why = f"{differing[0]} is of store {' of the one and '.join(ids)} of the other"
    elif mine.stores is not other.stores:
        why = aligned(mine.stores.stores[0].plan, other.stores.stores[0].plan)
    if why is not None:
        raise ConfigError(
            f"{mine.name} and {other.name} cannot be compared row by row: {why}; compare SAEs of one store"
        )
