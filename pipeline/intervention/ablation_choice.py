"""Which latents are ablated where none is named: those with the most activation, without those active everywhere."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.posting_blocks import posting_blocks

MOST_DENSE = 0.1
"""Share of the rows of the population from which on a latent is left out: the seed's `--exclude-latent-threshold`."""


class ChosenLatents(NamedTuple):
    """Latents to ablate."""

    latents: list[int]
    """By the sum of their activations on the rows, the largest first; those that are silent there are left out."""
    n_dense: int
    """Left out since they are active on too many rows."""


def chosen_latents(sae: CodedSAE, population: Population, rows_N: np.ndarray, n: int) -> ChosenLatents:
    """At most n latents, by their codes. rows_N: bool, the rows on which they are ablated."""
    kept_N = sae.kept(population)
    sum_E, count_E = np.zeros(sae.d_sae), np.zeros(sae.d_sae, np.int64)
    for block in posting_blocks(sae.codes):
        n_latents = len(block.offset) - 1
        here = slice(block.first, block.first + n_latents)
        latent_P = np.repeat(np.arange(n_latents), np.diff(block.offset))
        count_E[here] = np.bincount(latent_P[kept_N[block.rows]], minlength=n_latents)
        summed_P = np.abs(np.where(rows_N[block.rows], block.values, 0.0).astype(np.float64))
        sum_E[here] = np.bincount(latent_P, summed_P, minlength=n_latents)
    is_dense_E = count_E >= MOST_DENSE * max(1, int(kept_N.sum()))
    order = np.lexsort((np.arange(sae.d_sae), -sum_E))
    wanted = [int(e) for e in order if sum_E[e] > 0 and not is_dense_E[e]]
    return ChosenLatents(wanted[:n], int((is_dense_E & (sum_E > 0)).sum()))
