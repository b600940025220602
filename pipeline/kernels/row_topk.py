"""The k largest of each row without sorting rows: a bound from the maxima of groups leaves few candidates."""

import torch
from torch import Tensor

GROUPS_PER_K = 2
"""Groups (in multiples of k): more make the bound tighter and its own top-k dearer."""
SMALLEST_GROUP = 8
"""Latents per group below which torch.topk alone is as fast."""


def row_topk(pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latents of the k largest of each row, by rising latent; of equal values, the first latents.

    A row's result depends on that row alone. Returns: [B, k] each.
    """
    batch_size, n_latents = pre_BE.shape
    flat_P = true_places(pre_BE >= kth_bound(pre_BE, k)[:, None])
    rows_P = flat_P.div(n_latents, rounding_mode="floor")
    values_P = pre_BE.reshape(-1)[flat_P]
    counts_B = torch.bincount(rows_P, minlength=batch_size)
    if int(counts_B.amin()) < k:  # a row with NaN, which no bound holds for
        values_BK, latents_BK = pre_BE.topk(k, dim=1)
        return values_BK, latents_BK
    kept_P = largest_candidates(values_P, rows_P, counts_B, k)
    return values_P[kept_P].view(batch_size, k), (flat_P[kept_P] % n_latents).view(batch_size, k)


def kth_bound(pre_BE: Tensor, k: int) -> Tensor:
    """A number that at least k entries of each row reach: the k-th largest of the maxima of disjoint groups. [B]."""
    n_groups = GROUPS_PER_K * k
    group = pre_BE.shape[1] // n_groups
    if group < SMALLEST_GROUP:
        return pre_BE.topk(k, dim=1, sorted=False).values.amin(1)
    group_maxima = pre_BE[:, : n_groups * group].unflatten(1, (n_groups, group)).amax(2)
    return group_maxima.topk(k, dim=1, sorted=False).values.amin(1)


def largest_candidates(values_P: Tensor, rows_P: Tensor, counts_B: Tensor, k: int) -> Tensor:
    """Places of the k largest candidates of each row (at least k each), rising; of equal values, the first."""
    batch_size = counts_B.numel()
    kth_P = kth_candidates(values_P, rows_P, counts_B, k)[rows_P]
    kept_P = (values_P >= kth_P).nonzero().squeeze(1)
    if kept_P.numel() == batch_size * k:
        return kept_P
    above_P, ties_P = values_P > kth_P, (values_P == kth_P).nonzero().squeeze(1)
    room_B = k - torch.bincount(rows_P[above_P], minlength=batch_size)
    tied_B = torch.bincount(rows_P[ties_P], minlength=batch_size)
    rank = torch.arange(ties_P.numel(), device=ties_P.device) - (tied_B.cumsum(0) - tied_B)[rows_P[ties_P]]
    above_P[ties_P[rank < room_B[rows_P[ties_P]]]] = True
    return above_P.nonzero().squeeze(1)


def kth_candidates(values_P: Tensor, rows_P: Tensor, counts_B: Tensor, k: int) -> Tensor:
    """The k-th largest candidate of each row. Returns: [B]."""
    batch_size, width = counts_B.numel(), int(counts_B.amax())
    shift_B = torch.arange(batch_size, device=values_P.device) * width - (counts_B.cumsum(0) - counts_B)
    padded = values_P.new_full((batch_size * width,), -torch.inf)
    padded[torch.arange(values_P.numel(), device=values_P.device) + shift_B[rows_P]] = values_P
    return padded.view(batch_size, width).topk(k, dim=1, sorted=False).values.amin(1)


def true_places(kept_BE: Tensor) -> Tensor:
    """Where a sparse bool matrix is true, as rising flat places: eight at a time, most of which hold none."""
    flat = kept_BE.reshape(-1)
    if flat.numel() % 8:
        return flat.nonzero().squeeze(1)
    eights = flat.view(torch.int64).nonzero().squeeze(1)
    inner = flat.view(-1, 8).index_select(0, eights).view(-1).nonzero().squeeze(1)
    return eights[inner >> 3] * 8 + (inner & 7)
