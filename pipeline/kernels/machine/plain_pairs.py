"""The operations on pairs of latents in PyTorch's own operations and those of the backend: for any device."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.pairs import RowPairs

if TYPE_CHECKING:
    from strata_sae.pipeline.kernels.codes import SparseCodes


def occurrences(codes: "SparseCodes", first: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every time that a latent from `first` to stop - 1 is on together with a larger one, sorted by these latents.

    Returns: the places of both, those of a pair of latents together and by rising row; how many each pair has.
    """
    bits = max(codes.n_latents - 1, 1).bit_length()
    # Numbers of 32 bits sort in half the passes of 64; a shift costs a tenth of a division.
    latents_P = codes.indices_P.to(torch.int32 if 2 * bits < 32 else torch.int64)
    order_P, rows_P, starts = codes.by_latent
    chosen = slice(int(starts[first]), int(starts[stop]))
    places = order_P[chosen]
    counts = codes.offsets[rows_P[chosen] + 1] - places - 1  # the pairs after it in its row: larger latents
    n_keys = int(counts.sum())
    source = torch.repeat_interleave(counts, output_size=n_keys)
    skip = places + 1 - (counts.cumsum(0) - counts)
    second_place = torch.arange(n_keys, device=source.device).add_(skip.index_select(0, source))
    first_place = places.index_select(0, source)
    keys = (latents_P << bits).index_select(0, first_place) | latents_P.index_select(0, second_place)
    keys, by_pair = keys.sort(stable=True)
    _, n_both = torch.unique_consecutive(keys, return_counts=True)
    return first_place.index_select(0, by_pair), second_place.index_select(0, by_pair), n_both


def pairs_together(codes: "SparseCodes", room_E: Tensor, least_E: Tensor, first: int, stop: int) -> RowPairs:
    """Pairs of a latent from `first` to stop - 1 and a larger one that reach either one's least."""
    first_place, second_place, n_both = occurrences(codes, first, stop)
    begins = n_both.cumsum(0) - n_both
    first_place, second_place = first_place[begins], second_place[begins]
    least = torch.minimum(least_E[codes.indices_P[first_place]], least_E[codes.indices_P[second_place]])
    kept = (n_both >= least).nonzero().squeeze(1)
    n_places = codes.indices_P.numel()
    order = kept[(first_place[kept] * n_places + second_place[kept]).argsort()]
    counts_P = torch.bincount(first_place[order], minlength=n_places)
    offsets = torch.nn.functional.pad(counts_P.cumsum(0), (1, 0))
    return RowPairs(offsets, second_place[order].int(), n_both[order].int())


def pair_dots(W_EM: Tensor, codes: "SparseCodes", pairs: RowPairs) -> Tensor:
    """<W[i], W[j]> of every pair. Returns: [N]."""
    from strata_sae.pipeline.kernels.machine.backend import backend_of

    i, j = _latents(codes, pairs)
    return backend_of(W_EM).sampled_dots(W_EM, W_EM, i, j, pairs.offsets)


def add_pair_sums(W_EM: Tensor, codes: "SparseCodes", pairs: RowPairs, weights: Tensor, out_EM: Tensor) -> None:
    """Add weight * W[j] to out[i] and weight * W[i] to out[j], for every pair."""
    from strata_sae.pipeline.kernels.machine.backend import backend_of

    backend = backend_of(W_EM)
    i, j = _latents(codes, pairs)
    for here, there in ((i, j), (j, i)):
        order, sorted_there, starts = backend.sort_by_index(here, there, codes.n_latents)
        out_EM += backend.weighted_sums(sorted_there, W_EM, starts, weights[order])


def _latents(codes: "SparseCodes", pairs: RowPairs) -> tuple[Tensor, Tensor]:
    return codes.indices_P[pairs.first_places()], codes.indices_P.index_select(0, pairs.partners)
