"""The k largest over all ranks, exactly: ties stay where one process would leave them, at the first latents.

Each rank offers its largest values, or counts of them, and learns the cut; indices never travel.
"""

import math
from functools import cache

import torch
from torch import Tensor

from strata_sae.pipeline.kernels import selection, tiles
from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes, from_places, offsets_of
from strata_sae.pipeline.kernels.machine import reference
from strata_sae.pipeline.kernels.machine.backend import backend_of
from strata_sae.pipeline.kernels.selection import is_dense, true_places
from strata_sae.pipeline.kernels.tiles import Tiles
from strata_sae.pipeline.sharding.ranks import Ranks

AGAIN_SHARE = 0.01
"""Share of the rows of which a short offer may be too short, if the latents of a row lie anywhere."""
SHIFTS = (23, 15, 7, 0)
"""From which bit on a positive float32 number is compared in each round: its exponent first, then its fraction."""
BINS = 256


def row_topk(ranks: Ranks, pre_BE: Tensor, k: int, n_latents: int, break_even_density: float) -> Codes:
    """The k largest of each row over all ranks, negative ones as 0; of equal values, the first latents.

    pre_BE: this rank's columns, perhaps none, of the n_latents of all. Returns: the entries of this rank.
    """
    if ranks.n == 1:
        return selection.row_topk(pre_BE, k, break_even_density)
    return clamped(kept_of_rows(ranks, pre_BE, k), k, n_latents, break_even_density)


def row_topk_of_tiles(ranks: Ranks, parts: Tiles, k: int, n_latents: int, break_even_density: float) -> Codes | None:
    """As `row_topk` of all tiles together, which are this rank's; None where the whole product is needed."""
    if ranks.n == 1:
        return tiles.row_topk_of_tiles(parts, k, break_even_density)
    n_held = parts.shape[1]
    if k >= n_held or is_dense(k, n_latents, break_even_density):
        return None
    codes = _kept(ranks, *_in_order(*parts.row_topk(k)), k, n_held)
    return clamped(codes, k, n_latents, break_even_density)


def kept_of_rows(ranks: Ranks, pre_BE: Tensor, k: int) -> SparseCodes:
    """The entries of this rank among the k largest of each row of all ranks; negative values stay as they are."""
    n_held = pre_BE.shape[1]
    if k == 0:  # where nobody has a candidate
        none = torch.zeros(0, dtype=torch.int64, device=pre_BE.device)
        return SparseCodes(pre_BE.new_zeros(0), none, none.new_zeros(pre_BE.shape[0] + 1), n_held)
    own = reference.row_topk(pre_BE, k) if k >= n_held else _in_order(*backend_of(pre_BE).row_topk(pre_BE, k))
    return _kept(ranks, *own, k, n_held)


def clamped(codes: SparseCodes, k: int, n_latents: int, break_even_density: float) -> Codes:
    """The codes with 0 for negative values; dense where one process would have them so."""
    codes = codes.with_values(codes.values.clamp(min=0))
    return DenseCodes(codes.to_dense()) if is_dense(k, n_latents, break_even_density) else codes


def _in_order(values_BK: Tensor, latents_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Falling values of each row, equal ones by latent."""
    latents_BK, by_latent_BK = latents_BK.sort(dim=1)
    values_BK, by_value_BK = values_BK.gather(1, by_latent_BK).sort(dim=1, descending=True, stable=True)
    return values_BK, latents_BK.gather(1, by_value_BK)


def _kept(ranks: Ranks, values_BK: Tensor, latents_BK: Tensor, k: int, n_held: int) -> SparseCodes:
    """The entries among the k largest of all ranks; values_BK: this rank's own k largest of each row, falling.

    The k largest of all are among the k largest of each. A rank offers its first few. Where the last value that some
    rank offered lies below the cut, nothing that was not offered can be among them, nor tie with them; other rows are
    offered again, with all k.
    """
    offer = offered(k, ranks.n)
    offers_RBK = ranks.gather(_padded(values_BK, offer))
    counts_RB, cut_B = _counts(offers_RBK, k)
    if offer < k:
        rows = (offers_RBK[:, :, -1] >= cut_B).any(0).nonzero().squeeze(1)  # the same on every rank
        ranks.sent.rows_again += rows.numel()
        if rows.numel():
            counts_RB[:, rows] = _counts(ranks.gather(_padded(values_BK[rows], k)), k)[0]
    counts_B = counts_RB[ranks.rank]
    kept_BK = torch.arange(values_BK.shape[1], device=values_BK.device) < counts_B[:, None]
    return SparseCodes(values_BK[kept_BK], latents_BK[kept_BK], offsets_of(counts_B), n_held)


def _padded(values_BK: Tensor, n_columns: int) -> Tensor:
    """The first columns; those of a rank that has fewer latents are minus infinity."""
    return torch.nn.functional.pad(
        values_BK[:, :n_columns], (0, max(0, n_columns - values_BK.shape[1])), value=-torch.inf
    )


def _counts(offers_RBK: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """How many of its largest values each rank keeps in each row, [n, B], and the cut of each row, [B].

    Every rank computes it from what all have offered, so no further exchange is needed.
    """
    cut_B = offers_RBK.transpose(0, 1).flatten(1).topk(k, dim=1).values[:, -1]
    above_RB = (offers_RBK > cut_B[:, None]).sum(2)
    equal_RB = (offers_RBK == cut_B[:, None]).sum(2)
    left_B = k - above_RB.sum(0)  # of the equal ones, those of the first ranks stay
    before_RB = equal_RB.cumsum(0) - equal_RB
    return above_RB + (left_B - before_RB).clamp(min=0).minimum(equal_RB), cut_B


@cache
def offered(k: int, n_ranks: int) -> int:
    """The values of each row that a rank offers at first (count): at most AGAIN_SHARE of the rows are offered again.

    Computed for k latents that lie on any rank with equal chance: a binomial's tail, once for each rank.
    """
    chances = [math.comb(k, j) * (n_ranks - 1) ** (k - j) / n_ranks**k for j in range(k + 1)]
    for offer in range(-(-k // n_ranks), k):
        if n_ranks * sum(chances[offer:]) <= AGAIN_SHARE:
            return offer
    return k


def batch_topk(
    ranks: Ranks, pre_BE: Tensor, n_entries: int, n_latents: int, break_even_density: float, guess: float = 0.0
) -> tuple[Codes, float]:
    """The n_entries largest positive values of the whole batch over all ranks; of equal ones, the first in row order.

    pre_BE: this rank's columns of the n_latents of all. guess: as in `selection.batch_topk`, equal on every rank.

    Returns: the entries of this rank, and the smallest selected value of all (0.0 where nothing was cut).
    """
    n_rows, n_held = pre_BE.shape
    flat = pre_BE.reshape(-1)
    places_P = true_places(flat > max(guess, 0.0))
    cut = kth_largest(ranks, flat[places_P], n_entries)
    if cut == 0.0 and guess > 0:
        places_P = true_places(flat > 0)
        cut = kth_largest(ranks, flat[places_P], n_entries)
    values_P = flat[places_P]
    if cut > 0:
        kept_P = values_P > cut
        ties_P = (values_P == cut).nonzero().squeeze(1)
        kept_P[ties_P[_first_ties(ranks, ties_P, places_P // n_held, n_entries, int(kept_P.sum()), n_rows)]] = True
        places_P, values_P = places_P[kept_P], values_P[kept_P]
    codes = from_places(places_P, values_P, n_rows, n_held)
    n_kept = n_entries if cut > 0 else ranks.count(len(places_P))
    return (DenseCodes(codes.to_dense()) if is_dense(n_kept, n_rows * n_latents, break_even_density) else codes), cut


def _first_ties(ranks: Ranks, ties_P: Tensor, rows_P: Tensor, n_entries: int, n_above: int, n_rows: int) -> Tensor:
    """Which of this rank's entries at the cut are kept: bool, one for each. Row by row, the first ranks come first."""
    counts_B = torch.bincount(rows_P[ties_P], minlength=n_rows)
    # A row's last number is how many entries this rank has above the cut, so that one exchange tells both.
    told_RB = ranks.gather(torch.cat([counts_B, counts_B.new_tensor([n_above])]).to(torch.int32)).long()
    ties_RB, left = told_RB[:, :-1], n_entries - int(told_RB[:, -1].sum())
    before = (
        ties_RB.T.flatten().cumsum(0).view(n_rows, ranks.n).T - ties_RB
    )  # those of earlier rows, and of lower ranks
    first_of_row_B = offsets_of(counts_B)[:-1]
    order_P = torch.arange(len(ties_P), device=ties_P.device)
    rows_of_ties_P = rows_P[ties_P]
    return before[ranks.rank][rows_of_ties_P] + order_P - first_of_row_B[rows_of_ties_P] < left


def kth_largest(ranks: Ranks, values_P: Tensor, k: int, *, or_last: bool = False) -> float:
    """The k-th largest positive value over all ranks, exactly; 0.0 where fewer than k are positive.

    Where k are, it is 0.0, too: nothing is cut then; with `or_last` it is the last of them.

    Four sums of 256 counts over ranks, whatever the number of values: positive float32 numbers are in the order of
    their bits, and each round finds the next eight of them.
    """
    bits_P = values_P[values_P > 0].float().view(torch.int32)
    found, left = 0, k
    for shift in SHIFTS:
        digits_P = (bits_P >> shift) & (BINS - 1 if shift else 127)
        counts = ranks.sum(torch.bincount(digits_P, minlength=BINS)).flip(0).cumsum(0).tolist()  # from the largest on
        if shift == SHIFTS[0] and counts[-1] <= k - or_last:
            return 0.0
        place = next(place for place, so_far in enumerate(counts) if so_far >= left)
        digit = BINS - 1 - place
        left -= counts[place - 1] if place else 0
        found |= digit << shift
        bits_P = bits_P[digits_P == digit]
    return float(torch.tensor(found, dtype=torch.int32).view(torch.float32))
