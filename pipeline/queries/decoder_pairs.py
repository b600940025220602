"""Pairs of latents whose decoder rows point the same way, and those of them that are rarely active together.

Decoder first: exact counts are made for the candidates alone. seeds.md 2.3 (`look_for_pairs`, here on decoder rows
rather than on effects), analysis.md row 55.
"""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.cofiring import MOST_PAIRS, together_in
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.row_pieces import KeptCodes

_TILE_BYTES = 2**25
"""Of cosines that are in memory at once."""
_ROUNDING = 1e-5
"""By how much a float32 cosine of unit rows may be off, with room: at M 16,384 it is off by less than 1e-6."""


class Pair(NamedTuple):
    """Two latents with alike decoder rows."""

    first: int
    second: int
    cosine: float
    together: int
    """Rows on which both are active."""


def unit_rows(W_dec: np.ndarray) -> np.ndarray:
    """Decoder rows of norm 1, float32 [E, M]; a row of zeros stays, and has cosine 0 with all others."""
    norm_E = np.sqrt(np.einsum("em,em->e", W_dec, W_dec, dtype=np.float64))
    return (W_dec / np.where(norm_E > 0, norm_E, 1.0)[:, None]).astype(np.float32)


def exact_cosines(W_dec: np.ndarray, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """Cosines of pairs of decoder rows in float64: [P]. They depend on the two rows alone."""
    cosine_P = np.empty(len(first_P))
    for start in range(0, len(first_P), 4096):
        part = slice(start, start + 4096)
        a_PM, b_PM = W_dec[first_P[part]].astype(np.float64), W_dec[second_P[part]].astype(np.float64)
        norm_P = np.sqrt((a_PM**2).sum(axis=1) * (b_PM**2).sum(axis=1))
        cosine_P[part] = (a_PM * b_PM).sum(axis=1) / np.where(norm_P > 0, norm_P, 1.0)
    return cosine_P


def exact_cosine(a_M: np.ndarray, b_M: np.ndarray) -> float:
    """The cosine of two decoder rows in float64; 0 where one is all zeros."""
    return float(exact_cosines(np.stack([a_M, b_M]), np.array([0]), np.array([1]))[0])


def cosine_pairs(W_dec: np.ndarray, least_cosine: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of decoder rows with a cosine of at least `least_cosine`, never E x E.

    W_dec: float32 [E, M]. Returns: first and second, int64, first < second, and their cosine, float64; by cosine
    falling, ties by first, then by second.
    Raises: ConfigError if `least_cosine` is no cosine, or if there are more than MOST_PAIRS pairs.
    """
    if not -1 <= least_cosine <= 1:
        raise ConfigError(f"least cosine: {least_cosine}, but a cosine lies between -1 and 1")
    unit_EM, n = unit_rows(W_dec), 0
    tile = max(1, _TILE_BYTES // (4 * max(len(W_dec), 1)))
    first, second, cosine = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for start in range(0, len(unit_EM), tile):
        # Rows below `start` have met this tile before; the products above it suffice.
        near_P, far_P = np.nonzero(unit_EM[start : start + tile] @ unit_EM[start:].T >= least_cosine - _ROUNDING)
        is_above = far_P > near_P
        near_P, far_P = near_P[is_above] + start, far_P[is_above] + start
        exact_P = exact_cosines(W_dec, near_P, far_P)
        kept = exact_P >= least_cosine
        first.append(near_P[kept])
        second.append(far_P[kept])
        cosine.append(exact_P[kept])
        n += int(kept.sum())
        if n > MOST_PAIRS:
            raise ConfigError(
                f"more than {MOST_PAIRS:,} pairs of latents have a cosine of {least_cosine} or more; ask for a larger one"
            )
    found = np.concatenate(first), np.concatenate(second), np.concatenate(cosine)
    order = np.lexsort((found[1], found[0], -found[2]))
    return found[0][order], found[1][order], found[2][order]


def look_for_pairs(
    sae: CodedSAE, least_cosine: float, most_together: int, population: Population = "as_trained"
) -> list[Pair]:
    """Pairs with a cosine of at least `least_cosine` that share at most `most_together` rows; the most alike first.

    Latents that are active on no row of the population are left out: they are never together with any.
    Raises: ConfigError as `cosine_pairs`, or if `most_together` is below 0.
    """
    if most_together < 0:
        raise ConfigError(f"most rows together: {most_together}, but at least 0")
    first_P, second_P, cosine_P = cosine_pairs(sae.W_dec, least_cosine)
    kept = KeptCodes(sae.codes, sae.kept(population))
    count_E = kept.counts()
    is_alive = (count_E[first_P] > 0) & (count_E[second_P] > 0)
    first_P, second_P, cosine_P = first_P[is_alive], second_P[is_alive], cosine_P[is_alive]
    together_P = together_in(kept, first_P, second_P)
    found = zip(first_P.tolist(), second_P.tolist(), cosine_P.tolist(), together_P.tolist(), strict=True)
    return [Pair(*pair) for pair in found if pair[3] <= most_together]
