"""Penalties of how similar two latents are, over the pairs that are active together."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import SparseCodes
from strata_sae.pipeline.kernels.machine.backend import backend_of
from strata_sae.pipeline.objective.pairs import Form, apart, co_active, competing, competition

SUMMED_AT_ONCE = 4096
"""Values that one thread sums (count)."""
# Of a fixed length, because torch splits a sum by the number of threads, which would change the last bits of the loss.

PENALTIES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "absolute": (torch.abs, torch.sign),
    "squared": (torch.square, lambda similarity: 2 * similarity),
}
"""Name -> penalty of a similarity, and its derivative."""


class Found(NamedTuple):
    """Sums over pairs, 0-dim, in float64."""

    loss: Tensor
    """Of c * penalty(similarity), without the weight."""
    absolute: Tensor
    """Of the absolute similarities of the pairs that compete and are active together."""
    n_pairs: int
    """How many pairs those are."""


def nothing(like: Tensor) -> Found:
    """No pair."""
    zero = like.new_zeros((), dtype=torch.float64)
    return Found(zero, zero, 0)


def of_decoder(
    W_EM: Tensor, codes: SparseCodes, form: Form, penalty: str, weight: float, gradient_EM: Tensor | None
) -> Found:
    """Penalty of the inner products of decoder rows; adds weight times the loss's gradient to gradient_EM, if given.

    Every pair counts with c minus what it would be if the pair were never active together (`apart`): that part is the
    same for all pairs and is added by `all_pairs.of_decoder_alike`.
    """
    value, slope = PENALTIES[penalty]
    backend, entries = backend_of(W_EM), codes.entries
    loss, absolute, n_pairs = nothing(W_EM)
    for pairs, c_both in competing(codes, *form):
        n_pairs += int((c_both > 0).sum())
        c = c_both.to(W_EM.dtype)
        counted = c if apart(form) == 0 else c - 2 * apart(form)
        dots = backend.pair_dots(W_EM, entries, pairs)
        if gradient_EM is not None:
            pull = slope(dots).mul_(counted).mul_(weight)
            backend.add_pair_sums(W_EM, entries, pairs, pull, gradient_EM)
        loss = loss + ordered_sum(value(dots).mul_(counted))
        absolute = absolute + ordered_sum(dots.abs_().mul_(c > 0))
    return Found(loss, absolute, n_pairs)


def of_activations(codes: SparseCodes, form: Form, penalty: str, weight: float, gradient_P: Tensor | None) -> Found:
    """Penalty of (f^T f)_ij / B of the codes f; adds weight times the loss's gradient to gradient_P, if given.

    Of latents that are never active together that is 0, and so is their penalty.
    """
    value, slope = PENALTIES[penalty]
    loss, absolute, n_pairs = nothing(codes.values_P)
    for pairs, where in co_active(codes):
        c_both = competition(pairs, *form)
        n_pairs += int((c_both > 0).sum())
        c = c_both.to(codes.values_P.dtype)
        first, second = where.first_place, where.second_place
        left, right = codes.values_P[first], codes.values_P[second]
        similarity = torch.segment_reduce(left * right, "sum", lengths=where.n_both, unsafe=True) / codes.batch_size
        if gradient_P is not None:
            pull = weight / codes.batch_size * c * slope(similarity)
            pull = pull.repeat_interleave(where.n_both, output_size=first.numel())
            # Sorted by place, so that every sum has one order, whatever the number of threads.
            places, parts = torch.cat([first, second]), torch.cat([pull * right, pull * left])
            n_parts = torch.bincount(places, minlength=codes.values_P.numel())
            order = places.int().argsort(stable=True)
            gradient_P += torch.segment_reduce(parts[order], "sum", lengths=n_parts, unsafe=True)
        loss = loss + ordered_sum(c * value(similarity))
        absolute = absolute + ordered_sum(similarity.abs() * (c > 0))
    return Found(loss, absolute, n_pairs)


def ordered_sum(values: Tensor) -> Tensor:
    """Their sum in float64, in an order that does not depend on the number of threads."""
    values = values.reshape(-1)
    whole = values.numel() - values.numel() % SUMMED_AT_ONCE
    parts = values[:whole].view(-1, SUMMED_AT_ONCE).sum(1, dtype=torch.float64)
    return parts.sum() + values[whole:].sum(dtype=torch.float64)
