"""On how many rows two latents of an SAE are active together: exact, over the rows of a population, never E x E.

A pair of a row and a latent is counted where the code is not 0. Counts are made in blocks of latents; what is kept of a
block is its pairs above a threshold, or the best partners of each latent. analysis.md section 4, row 53.
"""

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.machine.compiled.cofiring import (
    NOBODY,
    add_of_pairs,
    add_of_rows,
    most_together,
    pairs_above,
    wanted_postings,
)
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.row_pieces import PAIRS_AT_ONCE, KeptCodes, Told, blocks_together
from strata_sae.stores import CodesStore

MOST_PAIRS = 20_000_000
"""Pairs of one answer (count): 240 MB. Of the demo's pairs of latents, three quarters are active together once."""


def partners_of(sae: CodedSAE, latent: int, population: Population = "as_trained") -> np.ndarray:
    """On how many rows each latent is active together with one: int64 [d_sae]; at the latent itself its own rows.

    Raises: ConfigError if there is no such latent.
    """
    rows = rows_in(sae, latent, population)
    together_E = np.zeros(sae.d_sae, np.int64)
    plan = sae.codes.plan
    rows_at_once = max(1, PAIRS_AT_ONCE * plan.n_rows // max(sae.codes.n_pairs, 1))
    for start in range(0, plan.n_rows, rows_at_once):
        first, last = np.searchsorted(rows, [start, start + rows_at_once])
        if first < last:
            begin, end = int(rows[first]), int(rows[last - 1]) + 1
            offset, latents = sae.codes.latents_of(begin, end)
            add_of_rows(rows[first:last] - begin, offset, latents, together_E)
    return together_E


def rows_in(sae: CodedSAE, latent: int, population: Population = "as_trained") -> np.ndarray:
    """The rows of a population on which a latent is active: int64, rising. Raises: ConfigError if there is no such."""
    if not 0 <= latent < sae.d_sae:
        raise ConfigError(f"{sae.name}: latent {latent}, but there are latents 0 to {sae.d_sae - 1}")
    rows = sae.codes.rows_of(latent)[0]
    return rows[sae.kept(population)[rows]]


def top_partners(
    codes: CodesStore, kept_N: np.ndarray, n: int, told: Told | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The n latents with which each latent shares the most rows: by count falling, ties by latent rising.

    kept_N: bool [n_rows], the rows that count. Returns: partners and counts, uint32 [d_sae, n]; 2^32 - 1 and 0 where a
    latent has fewer.
    """
    kept = KeptCodes(codes, kept_N)
    partner_EK, count_EK = np.full((kept.d_sae, n), NOBODY, np.uint32), np.zeros((kept.d_sae, n), np.uint32)
    for start, together_BE in blocks_together(kept, kept, told=told) if n else ():
        stop = start + len(together_BE)
        most_together(together_BE, start, partner_EK[start:stop], count_EK[start:stop])
    return partner_EK, count_EK


def cofiring_pairs(
    sae: CodedSAE, least: int, population: Population = "as_trained", told: Told | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of latents that are active together on at least `least` rows.

    Returns: first, second, count, uint32 each, with first < second; by first, then by second.
    Raises: ConfigError if `least` is below 1, or if there are more than MOST_PAIRS such pairs.
    """
    if least < 1:
        raise ConfigError(f"least rows together: {least}, but at least 1; every pair of latents shares 0 rows or more")
    kept = KeptCodes(sae.codes, sae.kept(population))
    found, n = [], 0
    for start, together_BE in blocks_together(kept, kept, above=True, told=told):
        found.append(pairs_above(together_BE, start, least))
        n += len(found[-1][0])
        if n > MOST_PAIRS:
            raise ConfigError(
                f"{sae.name}: more than {MOST_PAIRS:,} pairs of latents are active together on at least {least} rows; "
                "ask for more rows"
            )
    first, second, count = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first, second, count


def together_of(
    sae: CodedSAE, first_P: np.ndarray, second_P: np.ndarray, population: Population = "as_trained"
) -> np.ndarray:
    """On how many rows the two latents of each pair are active together: int64 [P]. A pass over the codes."""
    return together_in(KeptCodes(sae.codes, sae.kept(population)), first_P, second_P)


def together_in(kept: KeptCodes, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """As `together_of`, over codes that are opened."""
    wanted_E = np.zeros(kept.d_sae, bool)
    wanted_E[first_P] = wanted_E[second_P] = True
    count_P = np.zeros(len(first_P), np.int64)
    for piece in kept.pieces() if len(first_P) else ():
        postings = wanted_postings(piece.offset, piece.latent, wanted_E)
        add_of_pairs(*postings, first_P.astype(np.int64), second_P.astype(np.int64), count_P)
    return count_P


def n_partners(
    sae: CodedSAE, least: int = 1, population: Population = "as_trained", told: Told | None = None
) -> np.ndarray:
    """With how many other latents each is active together on at least `least` rows: int64 [d_sae]."""
    kept = KeptCodes(sae.codes, sae.kept(population))
    n_E = np.zeros(sae.d_sae, np.int64)
    for start, together_BE in blocks_together(kept, kept, told=told):
        own = together_BE[np.arange(len(together_BE)), start + np.arange(len(together_BE))]
        n_E[start : start + len(together_BE)] = (together_BE >= least).sum(axis=1) - (own >= least)
    return n_E
