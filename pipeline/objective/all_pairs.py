"""All pairs of latents, also those that are never active together: in tiles of the matrix [E, E], or in closed form."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import DenseCodes
from strata_sae.pipeline.objective.pairs import CoActive, Form, competition_of_any, counted_in, density_of
from strata_sae.pipeline.objective.similarity import PENALTIES, Found, nothing, ordered_sum

TILE_LATENTS = 512
"""Latents whose pairs with all others are in memory together (count): 32 MB a matrix at d_sae 16384 in float32."""


class Tile(NamedTuple):
    """The pairs of latents first to stop - 1 (R of them) with every latent."""

    first: int
    stop: int
    c_RE: Tensor
    """c_ij + c_ji; 0 for a latent and itself."""
    together_RE: Tensor
    """bool: whether the two are active together in any row."""


def of_decoder_tiles(
    W_EM: Tensor, codes: DenseCodes, form: Form, penalty: str, weight: float, gradient_EM: Tensor | None
) -> Found:
    """Penalty of the inner products of decoder rows; adds weight times the loss's gradient to gradient_EM, if given."""
    value, slope = PENALTIES[penalty]
    found = nothing(W_EM)
    for tile in _tiles(codes, form):
        similarity_RE = W_EM[tile.first : tile.stop] @ W_EM.T
        if gradient_EM is not None:
            gradient_EM[tile.first : tile.stop] += slope(similarity_RE).mul_(tile.c_RE).mul_(weight) @ W_EM
        found = _added(found, tile, similarity_RE, value(similarity_RE))
    return _each_once(found)


def of_activations_tiles(
    codes: DenseCodes, form: Form, penalty: str, weight: float, gradient_BE: Tensor | None
) -> Found:
    """Penalty of (f^T f)_ij / B of the codes f; adds weight times the loss's gradient to gradient_BE, if given.

    Codes of 0 get their gradient, too: an architecture with a kernel about its threshold uses it.
    """
    value, slope = PENALTIES[penalty]
    f_BE, scale = codes.values_BE, 1 / codes.batch_size
    found = nothing(f_BE)
    for tile in _tiles(codes, form):
        similarity_RE = (f_BE[:, tile.first : tile.stop].T @ f_BE) * scale
        if gradient_BE is not None:
            pull_RE = slope(similarity_RE).mul_(tile.c_RE).mul_(weight * scale)
            gradient_BE[:, tile.first : tile.stop] += f_BE @ pull_RE.T
        found = _added(found, tile, similarity_RE, value(similarity_RE))
    return _each_once(found)


def of_decoder_alike(W_EM: Tensor, c: float, penalty: str, weight: float, gradient_EM: Tensor | None) -> Tensor:
    """Sum over ordered pairs i != j of c * penalty(<W[i], W[j]>), 0-dim in float64; the gradient as above.

    `squared` has a closed form, as sum_ij <W_i, W_j>^2 = ||W^T W||^2: one product of E x M^2. `absolute` has none, and
    takes two products of E^2 x M.
    """
    if penalty == "squared":
        square_E = W_EM.square().sum(1)
        gram_MM = W_EM.T @ W_EM
        if gradient_EM is not None:
            pull_EM = torch.addcmul(W_EM @ gram_MM, W_EM, square_E[:, None], value=-1.0)
            gradient_EM += pull_EM.mul_(4 * c * weight)
        return c * (ordered_sum(gram_MM.double().square()) - ordered_sum(square_E.double().square()))
    total = W_EM.new_zeros((), dtype=torch.float64)
    for first in range(0, W_EM.shape[0], TILE_LATENTS):
        similarity_RE = W_EM[first : first + TILE_LATENTS] @ W_EM.T
        similarity_RE.diagonal(first).zero_()
        if gradient_EM is not None:
            gradient_EM[first : first + TILE_LATENTS] += (similarity_RE.sign() @ W_EM).mul_(2 * c * weight)
        total = total + ordered_sum(similarity_RE.abs_())
    return c * total


def _tiles(codes: DenseCodes, form: Form) -> Iterator[Tile]:
    # Counts are sums of ones, exact in float32 up to 2^24 rows.
    active_BE = (codes.values_BE != 0).to(counted_in(codes.values_BE))
    n_E = active_BE.sum(0)
    density = max(density_of(codes), torch.finfo(active_BE.dtype).tiny)  # of a batch without any: shares of 0, not NaN
    for first in range(0, codes.n_latents, TILE_LATENTS):
        stop = min(first + TILE_LATENTS, codes.n_latents)
        both_RE = active_BE[:, first:stop].T @ active_BE
        counts = CoActive(both_RE, n_E[first:stop, None], n_E, codes.batch_size, density)
        c_RE = competition_of_any(counts, form).to(codes.values_BE.dtype)
        c_RE.diagonal(first).zero_()
        yield Tile(first, stop, c_RE, both_RE > 0)


def _added(found: Found, tile: Tile, similarity_RE: Tensor, penalty_RE: Tensor) -> Found:
    competes_RE = (tile.c_RE > 0) & tile.together_RE
    return Found(
        found.loss + ordered_sum(penalty_RE * tile.c_RE),
        found.absolute + ordered_sum(similarity_RE.abs() * competes_RE),
        found.n_pairs + int(competes_RE.sum()),
    )


def _each_once(found: Found) -> Found:
    """Tiles hold a pair twice, as (i, j) and as (j, i), each with c_ij + c_ji."""
    return Found(found.loss / 2, found.absolute / 2, found.n_pairs // 2)
