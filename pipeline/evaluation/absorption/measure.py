"""What is absorbed in each row, in both of SAEBench's forms, from codes, a probe's direction and the letter's latents.

Definitions, thresholds and their order are those of SAEBench 0.6.0 (feature_absorption_calculator.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SILENT = 1e-8
"""A latent whose code is below this is silent."""
FULL_COSINE = 0.025
"""Least cosine of the one absorbing latent with the probe, of full absorption."""
FRACTION_COSINE = 0.1
"""Least cosine of an absorbing latent with the probe, of the fraction."""
SHARE = 0.4
"""Least share of the row's projection on the probe that the absorbing latents write."""
MOST_ABSORBERS = 3
"""Latents that may absorb together, of the fraction (count)."""


class Absorbed(NamedTuple):
    """Of N rows."""

    fraction_N: Tensor
    """Share of what the letter's latents and the absorbing ones write that is the absorbing ones': float64, 0 to 1."""
    is_full_N: Tensor
    """Whether the letter's latents are all silent and one other latent writes the letter: bool."""


def folded(codes_NE: Tensor, W_dec_EM: Tensor) -> Tensor:
    """Codes as those of an SAE whose decoder rows have norm 1: what a latent writes, not how its weights spell it.

    A latent whose decoder row is 0 writes nothing, so its codes become 0.
    """
    return codes_NE * W_dec_EM.norm(dim=1)


def cosines_with(direction_M: Tensor, W_dec_EM: Tensor) -> Tensor:
    """Cosine of every decoder row with a direction: float64 [E]; 0 of a row that is 0."""
    norms_E = W_dec_EM.double().norm(dim=1)
    dots_E = W_dec_EM.double() @ _unit(direction_M)
    return torch.where(norms_E > 0, dots_E / norms_E.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def projections_on(direction_M: Tensor, x_NM: Tensor) -> Tensor:
    """Length of each row along a direction: float64 [N]."""
    return x_NM.double() @ _unit(direction_M)


def absorbed(
    codes_NE: Tensor, projection_N: Tensor, cosine_E: Tensor, latents: Sequence[int], *, k: int = MOST_ABSORBERS
) -> Absorbed:
    """What is absorbed in each row.

    codes_NE: folded; projection_N: of the rows on the probe; cosine_E: of the decoder rows with it; latents: those that
    a sparse probe found for the letter. A row that does not point along the probe (projection <= 0) is not absorbed:
    SAEBench has the same outcome below 0, and divides by 0 at 0.
    """
    written_NE = codes_NE.double() * cosine_E
    is_letters_E = torch.zeros(len(cosine_E), dtype=torch.bool, device=cosine_E.device)
    is_letters_E[list(latents)] = True
    main_N = written_NE[:, is_letters_E].sum(dim=1)

    may_absorb_NE = (written_NE > 0) & (cosine_E >= FRACTION_COSINE) & ~is_letters_E
    candidates_NE = torch.where(may_absorb_NE, written_NE, 0.0)
    others_N = candidates_NE.topk(min(k, candidates_NE.shape[1]), dim=1).values.sum(dim=1)

    points_along_N = projection_N > 0
    safe_N = torch.where(points_along_N, projection_N, 1.0)
    missing_N = torch.minimum(others_N, safe_N - main_N)
    # The divisor is 0 only where another case decides.
    shared_N = (missing_N / (missing_N + main_N)).nan_to_num(0.0).clamp(0.0, 1.0)
    fraction_N = torch.where(main_N <= 0, 1.0, shared_N)
    is_none_N = ~points_along_N | (main_N >= safe_N) | (others_N / safe_N < SHARE)
    fraction_N = torch.where(is_none_N, 0.0, fraction_N)

    largest_N, place_N = written_NE.max(dim=1)
    is_silent_N = (codes_NE[:, is_letters_E] < SILENT).all(dim=1)
    is_full_N = is_silent_N & (cosine_E[place_N] >= FULL_COSINE) & points_along_N & (largest_N / safe_N >= SHARE)
    return Absorbed(fraction_N, is_full_N)


def _unit(direction_M: Tensor) -> Tensor:
    direction_M = direction_M.double()
    return direction_M / direction_M.norm()
