"""The operations on pairs of latents on a CPU, as compiled loops."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine.compiled import pairs as loops
from strata_sae.pipeline.kernels.machine.compiled.threads import array, over_rows
from strata_sae.pipeline.kernels.pairs import RowPairs

if TYPE_CHECKING:
    from strata_sae.pipeline.kernels.codes import SparseCodes

LATENTS_AT_ONCE = 64
"""Latents a thread counts at a time (count)."""
PLACES_AT_ONCE = 1024
"""Places it takes at a time (count)."""
ROWS_AT_ONCE = 64
"""Rows it takes at a time (count)."""
COLUMNS_IN_STEP = 32
"""A thread's columns are a multiple of this: two vectors of the widest kind in float32 (count)."""


def pairs_together(codes: "SparseCodes", room_E: Tensor, least_E: Tensor, first: int, stop: int) -> RowPairs:
    """Pairs of a latent from `first` to stop - 1 and a larger one that reach either one's least."""
    order_P, _, starts = codes.by_latent
    n_places, n_most = codes.indices_P.numel(), int(room_E[stop] - room_E[first])
    ends_P = codes.offsets[codes.rows_P + 1]
    inputs = (codes.indices_P.int(), ends_P, order_P, starts, least_E, room_E)
    partners, n_both = torch.empty(2, n_most, dtype=torch.int32)  # what is not written takes no memory
    begins_P, counts_P = order_P.new_zeros(2, n_places)
    outputs = (partners, n_both, begins_P, counts_P)
    over_rows(loops.count, stop - first, LATENTS_AT_ONCE, first, *(array(t) for t in (*inputs, *outputs)))
    offsets = torch.nn.functional.pad(counts_P.cumsum(0), (1, 0))
    sorted_partners, sorted_n_both = torch.empty(2, int(offsets[-1]), dtype=torch.int32)
    arrays = (begins_P, offsets, partners, n_both, sorted_partners, sorted_n_both)
    over_rows(loops.gather, n_places, PLACES_AT_ONCE, *(array(t) for t in arrays))
    return RowPairs(offsets, sorted_partners, sorted_n_both)


def pair_dots(W_EM: Tensor, codes: "SparseCodes", pairs: RowPairs) -> Tensor:
    """<W[i], W[j]> of every pair. Returns: [N]."""
    dots = W_EM.new_empty(pairs.partners.numel())
    arrays = (codes.indices_P.int(), pairs.offsets, pairs.partners, W_EM, dots)
    over_rows(loops.dots, codes.indices_P.numel(), PLACES_AT_ONCE, *(array(t) for t in arrays))
    return dots


def add_pair_sums(W_EM: Tensor, codes: "SparseCodes", pairs: RowPairs, weights: Tensor, out_EM: Tensor) -> None:
    """Add weight * W[j] to out[i] and weight * W[i] to out[j], for every pair; each thread has columns of its own."""
    latents_P, n_pairs = codes.indices_P.int(), weights.numel()
    offsets = torch.zeros_like(pairs.offsets)
    partners, both_weights = latents_P.new_empty(2 * n_pairs), weights.new_empty(2 * n_pairs)
    inputs = (codes.offsets, latents_P, pairs.offsets, pairs.partners, weights)
    lists = (offsets, partners, both_weights)
    over_rows(loops.both_ways, codes.batch_size, ROWS_AT_ONCE, *(array(t) for t in (*inputs, *lists)))
    n_columns = W_EM.shape[1]
    n_steps = -(-n_columns // COLUMNS_IN_STEP)
    width = COLUMNS_IN_STEP * -(-n_steps // torch.get_num_threads())
    arrays = (latents_P, *lists, W_EM, out_EM)
    over_rows(loops.add_sums, -(-n_columns // width), 1, width, *(array(t) for t in arrays))
