"""From pre-activations to codes: who is on. Sparse codes below a density, dense codes above it."""

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes, from_flat
from strata_sae.pipeline.kernels.machine.backend import backend_of

BREAK_EVEN_DENSITY = 0.15
"""Share of latents on above which a matrix product beats the gathers (break_even.py measures it for a machine).

It decides how sums are rounded, so an SAE's config records it and every selection is given it.
"""


def is_dense(n_active: int, n_all: int, break_even_density: float) -> bool:
    """Whether so many active entries of so many are better held as a full matrix."""
    return n_active > break_even_density * n_all


def row_topk(pre_BE: Tensor, k: int, break_even_density: float) -> Codes:
    """The k largest of each row, negative ones as 0; of equal values, the first latents (on a GPU: any).

    break_even_density: density from which the codes are a full matrix. A row's result depends on that row alone.
    """
    batch_size, n_latents = pre_BE.shape
    if k == n_latents:
        return DenseCodes(pre_BE.clamp(min=0))
    values_BK, indices_BK = backend_of(pre_BE).row_topk(pre_BE, k)
    values_BK = values_BK.clamp(min=0)
    if is_dense(k, n_latents, break_even_density):
        return DenseCodes(torch.zeros_like(pre_BE).scatter_(1, indices_BK, values_BK))
    offsets = torch.arange(0, batch_size * k + 1, k, device=pre_BE.device)
    return SparseCodes(values_BK.reshape(-1), indices_BK.reshape(-1), offsets, n_latents)


def batch_topk(pre_BE: Tensor, n_entries: int, break_even_density: float, guess: float = 0.0) -> tuple[Codes, float]:
    """The n_entries largest positive values of the whole batch (all of them where fewer are positive).

    `guess` only saves time: values at or below it are looked at again when too few lie above it. Of equal values at
    the cut, the first in row order stay, so the result does not depend on the guess.

    Returns: the codes, and the smallest selected value (0.0 when nothing was cut).
    """
    flat = pre_BE.reshape(-1)
    candidates_P = true_places(flat > max(guess, 0.0))
    if candidates_P.numel() < n_entries and guess > 0:
        candidates_P = true_places(flat > 0)
    kept_P, cut = largest_entries(flat[candidates_P], n_entries)
    codes = from_flat(candidates_P[kept_P], pre_BE)
    return (
        DenseCodes(codes.to_dense()) if is_dense(kept_P.numel(), pre_BE.numel(), break_even_density) else codes
    ), cut


def largest_entries(values_P: Tensor, n_entries: int) -> tuple[Tensor, float]:
    """Rising places of the largest values, of equal ones the first; and the smallest of them (0.0: nothing is cut)."""
    if values_P.numel() <= n_entries:
        return torch.arange(values_P.numel(), device=values_P.device), 0.0
    smallest = backend_of(values_P).kth_largest(values_P, n_entries)
    kept_P = values_P > smallest
    ties_P = (values_P == smallest).nonzero().squeeze(1)
    kept_P[ties_P[: n_entries - int(kept_P.sum())]] = True
    return kept_P.nonzero().squeeze(1), smallest


def above(pre_BE: Tensor, threshold: float | Tensor, break_even_density: float) -> Codes:
    """Every value strictly above `threshold` (at least 0). A row's result depends on that row alone."""
    kept_BE = pre_BE > threshold
    if is_dense(int(kept_BE.count_nonzero()), pre_BE.numel(), break_even_density):
        return DenseCodes(torch.where(kept_BE, pre_BE, 0.0))
    return from_flat(true_places(kept_BE), pre_BE)


def true_places(kept_BE: Tensor) -> Tensor:
    """Where a sparse bool matrix is true, as rising flat places: eight at a time, most of which hold none."""
    flat = kept_BE.reshape(-1)
    if flat.numel() % 8:
        return flat.nonzero().squeeze(1)
    eights = flat.view(torch.int64).nonzero().squeeze(1)
    inner = flat.view(-1, 8).index_select(0, eights).view(-1).nonzero().squeeze(1)
    return eights[inner >> 3] * 8 + (inner & 7)
