"""Where a latent fires in a population, and who else fires there."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.populations import Population

N_STRONGEST = 32
"""Rows of a latent that other SAEs are asked about (count)."""
N_CANDIDATES = 5
"""Latents of another SAE whose rows are read whole (count)."""


class Firing(NamedTuple):
    """Rows on which a latent fires, rising, int64, and its values there, float32."""

    rows: np.ndarray
    values: np.ndarray

    @property
    def n_strongest(self) -> int:
        """Rows in `strongest` (count)."""
        return min(N_STRONGEST, len(self.rows))

    @property
    def strongest(self) -> np.ndarray:
        """The rows of the largest values; ties by row."""
        return self.rows[np.lexsort((self.rows, -self.values))[:N_STRONGEST]]


class Best(NamedTuple):
    """The latent of another SAE that fires most alike."""

    latent: int
    on_strongest: int
    """Of the strongest rows, those on which it fires (count)."""
    jaccard: float


def firing(sae: CodedSAE, latent: int, population: Population) -> Firing:
    """Where a latent fires."""
    rows, values = sae.codes.rows_of(latent)
    kept = sae.kept(population)[rows]
    return Firing(rows[kept], values[kept])


def together(mine: np.ndarray, other: np.ndarray) -> int:
    """Rows in both of two rising lists (count)."""
    few, many = sorted((mine, other), key=len)
    if not len(few):
        return 0
    at = np.searchsorted(many, few).clip(max=len(many) - 1)
    return int((many[at] == few).sum())


def jaccard(mine: np.ndarray, other: np.ndarray) -> float:
    """Rows in both of two rising lists / rows in either; 0 where there is none."""
    both = together(mine, other)
    return both / max(1, len(mine) + len(other) - both)


def best_in(
    run: CodedRun, sae: CodedSAE, fires: Firing, population: Population
) -> list[tuple[CodedSAE, Best | None]]:
    """For every other SAE of the run, its latent most like this one by Jaccard of rows; the most alike SAE first.

    Candidates are the latents that fire on most of the strongest rows; the Jaccard of each is exact. That bounds what a
    page reads: `matching.best_match` looks at all latents on all rows.
    """
    strongest = fires.strongest
    found = [(other, _best(other, fires, strongest, population)) for other in run.saes.values() if other is not sae]
    return sorted(found, key=lambda pair: -1.0 if pair[1] is None else -pair[1].jaccard)


def _best(other: CodedSAE, fires: Firing, strongest: np.ndarray, population: Population) -> Best | None:
    if not len(strongest):
        return None
    on_rows = np.concatenate([other.codes.latents_of(row, row + 1)[1] for row in strongest.tolist()])
    latents, counts = np.unique(on_rows, return_counts=True)
    rare_first = other.codes.table["count"][latents]
    best = None
    for i in np.lexsort((rare_first, -counts))[:N_CANDIDATES]:
        alike = jaccard(fires.rows, firing(other, int(latents[i]), population).rows)
        if best is None or alike > best.jaccard:
            best = Best(int(latents[i]), int(counts[i]), alike)
    return best
