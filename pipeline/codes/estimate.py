"""How many codes a row has, from rows all over the store, and what they take on the disk; too many are refused."""

import math
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.codes.encoding import ROWS_PER_TILE, RowsEncoder
from strata_sae.stores import CodesPlan

MOST_DENSITY, MOST_ANYWAY = 0.05, 64
"""Mean share of active latents above which codes are refused, unless so few a row are active (count)."""
# Postings pay where a latent is silent on most rows: at 5 % a pair takes 5 bytes, and a row of codes as much as d_sae / 4
# numbers. A small dictionary, as that of a toy, is cheap at any density: 64 codes a row are what the format is made for.
_SAMPLES = 8
"""Tiles that are encoded to know beforehand (count): 4,096 rows."""
_PAIRS_PER_SEGMENT = 2**26
"""Pairs that a segment may have by the estimate (count): it is built in 16 bytes a pair, 1 GiB."""


class Estimate(NamedTuple):
    """Of the codes of one SAE."""

    l0: float
    """Active latents a row, mean (count)."""
    density: float
    """The same as a share of the latents."""
    n_pairs: int
    n_bytes: int


def sampled_l0(encoder: RowsEncoder, n_rows: int) -> float:
    """Mean active latents a row (count), of tiles spread evenly over the store."""
    n_tiles = -(-n_rows // ROWS_PER_TILE)
    counted, rows = 0, 0
    for place in np.unique(np.linspace(0, n_tiles - 1, min(_SAMPLES, n_tiles)).round().astype(int)).tolist():
        start, stop = place * ROWS_PER_TILE, min((place + 1) * ROWS_PER_TILE, n_rows)
        for tile in (tile for stretch in encoder.tiles(start, stop) for tile in stretch):
            counted += int(np.count_nonzero(tile.values_P))
            rows += len(tile.offsets) - 1
    return counted / rows


def rows_per_segment(l0: float) -> int:
    """The largest power of two, at most that of the format, whose rows have no more pairs than fit into memory."""
    most = _PAIRS_PER_SEGMENT / max(l0, 1.0)
    return min(CodesPlan.rows_per_segment, 2 ** max(0, math.floor(math.log2(most))))


def estimate(l0: float, d_sae: int, n_rows: int) -> Estimate:
    """What codes of so many active latents a row take."""
    n_pairs = round(l0 * n_rows)
    # A value 3.4 bytes, measured. In both orders the gaps between neighbours are about as random as such gaps can be,
    # which take log2(e * mean gap) bits.
    gap_bytes = math.log2(math.e * max(d_sae / max(l0, 1e-9), 1.0)) / 8
    n_segments = -(-n_rows // rows_per_segment(l0))
    return Estimate(l0, l0 / d_sae, n_pairs, round(n_pairs * (3.4 + 2 * gap_bytes)) + n_rows + 4 * d_sae * n_segments)


def is_too_dense(l0: float, d_sae: int) -> bool:
    """Whether codes are refused."""
    return l0 > max(MOST_DENSITY * d_sae, MOST_ANYWAY)


def most_pairs(d_sae: int, n_rows: int) -> int:
    """Pairs of so many rows that are not refused (count)."""
    return math.ceil(max(MOST_DENSITY * d_sae, MOST_ANYWAY) * n_rows)


def refused(l0: float, d_sae: int) -> str:
    """Why codes are refused."""
    return (
        f"{l0:,.1f} of {d_sae:,} latents are active on a row, {l0 / d_sae:.1%}; codes are kept of SAEs with at most "
        f"{MOST_DENSITY:.0%}, or {MOST_ANYWAY} latents: train it sparser"
    )
