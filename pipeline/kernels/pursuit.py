"""Codes by gradient pursuit: what a dictionary can express of rows, found by optimising each row, without an encoder.

Blumensath and Davies, "Gradient Pursuits" (IEEE TSP 2008), in the non-negative form of Smith, "Replacing SAE encoders
with inference-time optimisation" (2024), which dictionary_learning's grad_pursuit.py has.
"""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import SparseCodes, from_places

TILE_BYTES = 2**26
"""Of the decoder rows of all latents that the rows of a tile may take."""


def gradient_pursuit(target_BM: Tensor, W_EM: Tensor, steps: Collection[int]) -> Iterator[tuple[int, SparseCodes]]:
    """The codes of rows after each of some numbers of steps, rising; a step adds one latent at most.

    Every step takes the latent whose decoder row has the largest inner product with what is missing, and goes along the
    gradient of the error over the latents taken so far, as far as the error falls; negative values become 0. Decoder
    rows are taken at length 1, and the values are those of the rows as they are: W_EM may have any norms, and a row of
    zeros is never active. Latents of equal products: the first.

    Shapes: target_BM float32 [B, M], without the decoder's bias; W_EM float32 [E, M].
    Raises: ValueError for a number of steps that is not at least 1.
    """
    if not steps or min(steps) < 1:
        raise ValueError(f"steps: {sorted(steps)}; at least one step is needed")
    norm_E = torch.linalg.vector_norm(W_EM, dim=1)
    unit_EM = W_EM / norm_E.where(norm_E > 0, torch.ones_like(norm_E))[:, None]
    found: dict[int, list[tuple[Tensor, Tensor]]] = {n: [] for n in sorted(steps)}
    tile_rows = max(1, TILE_BYTES // (4 * max(steps) * W_EM.shape[1]))
    for start in range(0, len(target_BM), tile_rows):
        for n, (places_P, values_P) in _pursued(target_BM[start : start + tile_rows], unit_EM, found.keys()):
            latents_P = places_P % len(W_EM)
            found[n].append((places_P + start * len(W_EM), values_P / norm_E[latents_P]))
    for n, parts in found.items():
        places_P = torch.cat([places for places, _ in parts])
        values_P = torch.cat([values for _, values in parts])
        yield n, from_places(places_P, values_P, len(target_BM), len(W_EM))


def _pursued(target_BM: Tensor, unit_EM: Tensor, steps: Collection[int]) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Of one tile, after each number of steps: places of the positive values in [B, E], rising, and the values."""
    (B, M), most = target_BM.shape, max(steps)
    latents_BK = torch.zeros(B, most, dtype=torch.long, device=target_BM.device)
    is_new_BK = torch.zeros(B, most, dtype=torch.bool, device=target_BM.device)
    rows_BKM = target_BM.new_empty(B, most, M)
    values_BK = target_BM.new_zeros(B, most)
    missing_BM = target_BM
    for n in range(1, most + 1):
        products_BE = missing_BM @ unit_EM.T
        best_B = products_BE.argmax(dim=1)
        is_new_BK[:, n - 1] = ((latents_BK[:, : n - 1] != best_B[:, None]) | ~is_new_BK[:, : n - 1]).all(dim=1)
        latents_BK[:, n - 1], rows_BKM[:, n - 1] = best_B, unit_EM[best_B]
        gradient_BK = products_BE.gather(1, latents_BK[:, :n]) * is_new_BK[:, :n]
        direction_BM = torch.bmm(gradient_BK[:, None], rows_BKM[:, :n])[:, 0]
        square_B = direction_BM.square().sum(dim=1)
        length_B = (direction_BM * missing_BM).sum(dim=1) / square_B
        length_B = torch.where(square_B > 0, length_B, torch.zeros_like(length_B))  # nothing is missing
        values_BK[:, :n] = (values_BK[:, :n] + length_B[:, None] * gradient_BK).clamp(min=0)
        missing_BM = target_BM - torch.bmm(values_BK[:, None, :n], rows_BKM[:, :n])[:, 0]
        if n in steps:
            yield n, _places(latents_BK[:, :n], values_BK[:, :n], len(unit_EM))


def _places(latents_BK: Tensor, values_BK: Tensor, n_latents: int) -> tuple[Tensor, Tensor]:
    rows_P, slots_P = (values_BK > 0).nonzero(as_tuple=True)
    places_P, order_P = (rows_P * n_latents + latents_BK[rows_P, slots_P]).sort()
    return places_P, values_BK[rows_P, slots_P][order_P]
