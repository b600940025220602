"""Which latents are ablated where none is named: those with the most activation, without those active everywhere."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population

MOST_DENSE = 0.1
"""Share of the rows of the population from which on a latent is left out: the seed's `--exclude-latent-threshold`."""
PAIRS_AT_ONCE = 2**22
"""Codes that are read together (count): 50 MB."""


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
    n_block = max(1, PAIRS_AT_ONCE * sae.d_sae // max(1, sae.codes.n_pairs))
    for start in range(0, sae.d_sae, n_block):
        stop = min(start + n_block, sae.d_sae)
        offsets, rows, values = sae.codes.postings(start, stop)
        latent_P = np.repeat(np.arange(stop - start), np.diff(offsets))
        count_E[start:stop] = np.bincount(latent_P[kept_N[rows]], minlength=stop - start)
        summed_P = np.abs(np.where(rows_N[rows], values, 0.0).astype(np.float64))
        sum_E[start:stop] = np.bincount(latent_P, summed_P, minlength=stop - start)
    is_dense_E = count_E >= MOST_DENSE * max(1, int(kept_N.sum()))
    order = np.lexsort((np.arange(sae.d_sae), -sum_E))
    wanted = [int(e) for e in order if sum_E[e] > 0 and not is_dense_E[e]]
    return ChosenLatents(wanted[:n], int((is_dense_E & (sum_E > 0)).sum()))
