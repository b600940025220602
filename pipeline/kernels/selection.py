"""From pre-activations to codes: who is on. Sparse codes below a density, dense codes above it."""

import torch
from torch import Tensor

from pipeline.kernels.codes import Codes, DenseCodes, SparseCodes, from_flat

BREAK_EVEN_DENSITY = 0.1
"""Share of latents on above which a matrix product beats the gathers (measured: benchmarks/train.py)."""


def row_topk(pre_BE: Tensor, k: int) -> Codes:
    """The k largest of each row, negative ones as 0. A row's result depends on that row alone."""
    batch_size, n_latents = pre_BE.shape
    if k == n_latents:
        return DenseCodes(pre_BE.clamp(min=0))
    values_BK, indices_BK = pre_BE.topk(k, dim=1, sorted=False)
    values_BK = values_BK.clamp_(min=0)
    if k > BREAK_EVEN_DENSITY * n_latents:
        return DenseCodes(torch.zeros_like(pre_BE).scatter_(1, indices_BK, values_BK))
    offsets = torch.arange(0, batch_size * k + 1, k, device=pre_BE.device)
    return SparseCodes(values_BK.reshape(-1), indices_BK.reshape(-1), offsets, n_latents)


def batch_topk(pre_BE: Tensor, n_pairs: int, guess: float = 0.0) -> tuple[Codes, float]:
    """The n_pairs largest positive values of the whole batch (all of them where fewer are positive).

    `guess` only saves time: values at or below it are looked at again when too few lie above it. Of equal values at
    the cut, the first in row order stay, so the result does not depend on the guess.

    Returns: the codes, and the smallest selected value (0.0 when nothing was cut).
    """
    flat = pre_BE.reshape(-1)
    candidates_P = (flat > max(guess, 0.0)).nonzero().squeeze(1)
    if candidates_P.numel() < n_pairs and guess > 0:
        candidates_P = (flat > 0).nonzero().squeeze(1)
    cut = 0.0
    if candidates_P.numel() > n_pairs:
        values_P = flat[candidates_P]
        smallest = values_P.topk(n_pairs, sorted=False).values.min()
        kept_P = values_P > smallest
        ties_P = (values_P == smallest).nonzero().squeeze(1)
        kept_P[ties_P[: n_pairs - int(kept_P.sum())]] = True
        candidates_P = candidates_P[kept_P]
        cut = float(smallest)
    codes = from_flat(candidates_P, pre_BE)
    return (DenseCodes(codes.to_dense()) if _is_dense(candidates_P.numel(), pre_BE) else codes), cut


def above(pre_BE: Tensor, threshold: float | Tensor) -> Codes:
    """Every value strictly above `threshold` (at least 0). A row's result depends on that row alone."""
    kept_BE = pre_BE > threshold
    if _is_dense(int(kept_BE.count_nonzero()), pre_BE):
        return DenseCodes(torch.where(kept_BE, pre_BE, 0.0))
    return from_flat(kept_BE.reshape(-1).nonzero().squeeze(1), pre_BE)


def _is_dense(n_pairs: int, pre_BE: Tensor) -> bool:
    return n_pairs > BREAK_EVEN_DENSITY * pre_BE.numel()
