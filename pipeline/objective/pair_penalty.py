"""Penalties of the similarity of pairs: their sum, and its gradient, for decoder rows and for activations."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import SparseCodes
from strata_sae.pipeline.kernels.pairs import RowPairs
from strata_sae.pipeline.objective.competition import Occurrences

SUMMED_AT_ONCE = 4096
"""Values that one thread sums (count)."""

PENALTIES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "absolute": (torch.abs, torch.sign),
    "squared": (torch.square, lambda similarity: 2 * similarity),
}
"""Name -> penalty of a similarity, and its derivative."""


class Penalised(NamedTuple):
    """Sums over pairs, 0-dim, in float64."""

    loss: Tensor
    """Of c * penalty(similarity)."""
    absolute: Tensor
    """Of the absolute similarities of the pairs that compete."""


def of_decoder(W_EM: Tensor, pairs: RowPairs, c: Tensor, penalty: str, weight: float, gradient_EM: Tensor) -> Penalised:
    """Of the inner products of decoder rows; adds weight times the gradient of the loss to gradient_EM."""
    value, slope = PENALTIES[penalty]
    c = c.to(W_EM.dtype)
    dots = pairs.dots(W_EM)
    pairs.add_sums(W_EM, slope(dots).mul_(c).mul_(weight), gradient_EM)
    return Penalised(_sum(value(dots).mul_(c)), _sum(dots.abs_().mul_(c > 0)))


def of_activations(
    codes: SparseCodes, where: Occurrences, c: Tensor, penalty: str, weight: float, gradient_P: Tensor
) -> Penalised:
    """Of (f^T f)_ij / B, f being the codes; all rows in which a pair is on must be in `where`."""
    value, slope = PENALTIES[penalty]
    first, second = where.first_place, where.second_place
    c = c.to(codes.values_P.dtype)
    left, right = codes.values_P[first], codes.values_P[second]
    similarity = torch.segment_reduce(left * right, "sum", lengths=where.n_both, unsafe=True) / codes.batch_size
    pull = weight / codes.batch_size * c * slope(similarity)
    pull = pull.repeat_interleave(where.n_both, output_size=first.numel())
    # Sorted by place, so that every sum has one order.
    places, parts = torch.cat([first, second]), torch.cat([pull * right, pull * left])
    n_parts = torch.bincount(places, minlength=codes.values_P.numel())
    order = places.int().argsort(stable=True)
    gradient_P += torch.segment_reduce(parts[order], "sum", lengths=n_parts, unsafe=True)
    return Penalised(_sum(c * value(similarity)), _sum(similarity.abs() * (c > 0)))


def _sum(values: Tensor) -> Tensor:
    """Their sum in float64, in an order that does not depend on the number of threads."""
    whole = values.numel() - values.numel() % SUMMED_AT_ONCE
    parts = values[:whole].view(-1, SUMMED_AT_ONCE).sum(1, dtype=torch.float64)
    return parts.sum() + values[whole:].sum(dtype=torch.float64)
