"""From pre-activations to codes: which latents are active. Sparse codes below a density, dense codes above it."""

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes, from_flat
from strata_sae.pipeline.kernels.machine.backend import backend_of

BREAK_EVEN_DENSITY = 0.15
"""Share of active latents above which matrix products are faster than gathers (break_even.py measures a machine's).

It decides how sums are rounded, so an SAE's config records it and every selection is given it.
"""
# Single operations break even at 0.23 to 0.30, but a whole ReLU step already at about 0.20, because terms work on the
# entries, too (docs/log.md, 2026-11-21). 0.15 is below both: where it errs, it errs by little time.


def is_dense(n_active: int, n_all: int, break_even_density: float) -> bool:
    """Whether so many active entries of so many are better held as a full matrix."""
    return n_active > break_even_density * n_all


def row_topk(pre_BE: Tensor, k: int, break_even_density: float) -> Codes:
    """The k largest of each row, negative ones as 0; of equal values, the first latents (on a GPU: any).

    break_even_density: density from which the codes are a full matrix. A row's result depends on that row alone.
    """
    batch_size, n_latents = pre_BE.shape
    if k == n_latents:  # nothing is left to select
        return DenseCodes(pre_BE.clamp(min=0))
    values_BK, indices_BK = backend_of(pre_BE).row_topk(pre_BE, k)
    # A negative pre-activation becomes 0 and stays an entry: each row then has exactly k, and offsets need no counting.
    values_BK = values_BK.clamp(min=0)
    if is_dense(k, n_latents, break_even_density):
        return DenseCodes(torch.zeros_like(pre_BE).scatter_(1, indices_BK, values_BK))
    offsets = torch.arange(0, batch_size * k + 1, k, device=pre_BE.device)
    return SparseCodes(values_BK.reshape(-1), indices_BK.reshape(-1), offsets, n_latents)


def batch_topk(
    pre_BE: Tensor, n_entries: int, break_even_density: float, guess: float = 0.0, draw: int | None = None
) -> tuple[Codes, float]:
    """The n_entries largest positive values of the whole batch (all of them where fewer are positive).

    `guess` only saves time: where too few values are above it, all positive ones are considered. Of equal values at the
    cut, the first in row order stay (draw None), or some at random; the result does not depend on the guess.

    Returns: the codes, and the smallest selected value (0.0 when nothing was cut).
    """
    flat = pre_BE.reshape(-1)
    candidates_P = true_places(flat > max(guess, 0.0))
    if candidates_P.numel() < n_entries and guess > 0:
        candidates_P = true_places(flat > 0)
    # The k-th largest is sought among the few candidates, not among all B * E values.
    kept_P, cut = largest_entries(flat[candidates_P], n_entries, candidates_P, draw)
    codes = from_flat(candidates_P[kept_P], pre_BE)
    return (
        DenseCodes(codes.to_dense()) if is_dense(kept_P.numel(), pre_BE.numel(), break_even_density) else codes
    ), cut


def largest_entries(values_P: Tensor, n_entries: int, flat_P: Tensor, draw: int | None = None) -> tuple[Tensor, float]:
    """Rising places of the largest values, and the smallest of them (0.0: nothing is cut).

    Of equal ones at the cut, the first; with a `draw`, those with the smallest random numbers. A number depends on
    `draw` and on flat_P, the entry's place in the whole batch: on no tile, guess or machine.
    """
    if values_P.numel() <= n_entries:
        return torch.arange(values_P.numel(), device=values_P.device), 0.0
    smallest = backend_of(values_P).kth_largest(values_P, n_entries)
    kept_P = values_P > smallest
    ties_P = (values_P == smallest).nonzero().squeeze(1)
    if draw is not None:
        ties_P = ties_P[random_numbers(flat_P[ties_P], draw).sort(stable=True).indices]
    kept_P[ties_P[: n_entries - int(kept_P.sum())]] = True
    return kept_P.nonzero().squeeze(1), smallest


def random_numbers(places_P: Tensor, draw: int) -> Tensor:
    """A random number for each place, int64, named by `draw`. Source: SplitMix64 (Steele et al. 2014), as a hash."""
    mixed = _signed(draw) + (places_P + 1) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ _shifted(mixed, shift)) * _signed(factor)
    return mixed ^ _shifted(mixed, 31)


def _signed(word: int) -> int:
    """64 bits as the signed number that torch reads in them; its sums and products wrap around."""
    word %= 2**64
    return word - 2**64 if word >= 2**63 else word


def _shifted(words: Tensor, shift: int) -> Tensor:
    """To the right, zeros moving in: torch copies the sign."""
    return (words >> shift) & (2 ** (64 - shift) - 1)


def above(pre_BE: Tensor, threshold: float | Tensor, break_even_density: float) -> Codes:
    """Every value strictly above `threshold` (at least 0). A row's result depends on that row alone."""
    kept_BE = pre_BE > threshold
    if is_dense(int(kept_BE.count_nonzero()), pre_BE.numel(), break_even_density):
        return DenseCodes(torch.where(kept_BE, pre_BE, 0.0))
    return from_flat(true_places(kept_BE), pre_BE)


def true_places(kept_BE: Tensor) -> Tensor:
    """Where a sparse bool matrix is true, as rising flat places."""
    flat = kept_BE.reshape(-1)
    # Eight bools are read as one 64-bit number, and most such numbers are 0: an eighth of the comparisons.
    if flat.numel() % 8:
        return flat.nonzero().squeeze(1)
    eights = flat.view(torch.int64).nonzero().squeeze(1)
    inner = flat.view(-1, 8).index_select(0, eights).view(-1).nonzero().squeeze(1)
    return eights[inner >> 3] * 8 + (inner & 7)
