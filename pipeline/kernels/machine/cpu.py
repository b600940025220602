"""The operations on a CPU, as compiled loops; every sum runs in a fixed order, so equal inputs give equal bits."""

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine import reference
from strata_sae.pipeline.kernels.machine.compiled import certified, largest, rows
from strata_sae.pipeline.kernels.machine.compiled.loops import array, over_rows
from strata_sae.pipeline.kernels.machine.reference import AdamStep, Entries, RowPairs

# How much a thread takes at a time: enough that a call, about 10 us, is nothing beside it, and so little that no thread
# waits long for the last one. No result depends on these counts.
ROWS_AT_ONCE = 64
"""Rows, where thousands of columns of each are looked at (count)."""
MATRIX_ROWS_AT_ONCE = 128
"""Rows of a weight matrix (count)."""
GATHERED_AT_ONCE = 1024
"""Rows that are gathered and summed, about (count)."""
ENTRIES_AT_ONCE = 4096
"""Entries whose inner products are taken (count)."""
LATENTS_AT_ONCE = 64
"""Latents whose pairs are counted (count)."""
PLACES_AT_ONCE = 1024
"""Places whose pairs are used (count)."""
COLUMNS_IN_STEP = 32
"""A thread's columns are a multiple of this: two vectors of the widest kind in float32 (count)."""


def weighted_sums(
    indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor, out: Tensor | None = None
) -> Tensor:
    """For each stretch of entries, the sum of weight * table[index], in one pass. Returns: [stretches, M], in `out`."""
    n_stretches = offsets.numel() - 1
    sums = table.new_empty(n_stretches, table.shape[1]) if out is None else out
    arrays = (array(tensor) for tensor in (indices_P, table, offsets, weights_P))
    # Long stretches (latents of the decoder's gradient) fewer at a time, so that threads get equal work.
    at_once = max(1, n_stretches * GATHERED_AT_ONCE // max(indices_P.numel(), 1))
    over_rows(rows.weighted_sums, n_stretches, at_once, *arrays, sums.numpy())
    return sums


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every entry. Returns: [P]."""
    dots_P = left_BM.new_empty(indices_P.numel())
    arrays = (array(tensor) for tensor in (left_BM, W_EM, rows_P, indices_P))
    over_rows(rows.sampled_dots, indices_P.numel(), ENTRIES_AT_ONCE, *arrays, dots_P.numpy())
    return dots_P


def index_sums(values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
    """The sum of the values at each index, in float64 and in order. Returns: [n]."""
    sums = np.zeros(n)  # float64, on one thread: P additions are too few to be worth more
    rows.index_sums(array(values_P), array(indices_P), sums)
    return torch.from_numpy(sums).to(values_P.dtype)


def sort_by_index(indices_P: Tensor, rows_P: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The order that sorts entries by index, equal ones as they come; their rows; where each index begins: [n + 1]."""
    order_P, sorted_rows_P, starts = rows.sort_by_index(array(indices_P), array(rows_P), n)
    return torch.from_numpy(order_P), torch.from_numpy(sorted_rows_P), torch.from_numpy(starts)


def row_topk(pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latents of the k largest of each row, in no order; of equal values, the first latents. [B, k]."""
    found = RowTopK(pre_BE.shape[0], k, like=pre_BE)
    found.take(pre_BE, pre_BE.new_zeros(pre_BE.shape[1]), 0)
    return found.result()


def row_topk_of_product(x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, buffer: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `row_topk` of x0 W^T + b, in the buffer [rows, E].

    Tiles of latents, not of rows: W, the largest matrix, is then read once.
    """
    parts = []
    for block_BM in reference.row_blocks(x0_BM, buffer):
        found = RowTopK(block_BM.shape[0], k, like=block_BM)
        for first, product, bias in reference.latent_tiles(block_BM, x0_BM, W_EM, b_E, buffer):
            found.take(product, bias, first)
        parts.append(found.result())
    values, latents = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(latents)


class RowTopK:
    """The k largest of each row, while the columns arrive tile by tile."""

    def __init__(self, n_rows: int, k: int, like: Tensor):
        self.k = k
        self._values = like.new_empty(n_rows, 4 * k + largest.DEPTH)  # k kept, and 3 k more before they are sorted out
        self._latents = torch.empty(self._values.shape, dtype=torch.int64)
        self._counts = torch.zeros(n_rows, dtype=torch.int64)
        self._bounds = like.new_full((n_rows,), -torch.inf)

    def take(self, tile: Tensor, bias: Tensor, first: int) -> None:
        """Take in tile + bias, which are the columns from `first` on of all rows."""
        state = (t.numpy() for t in (self._values, self._latents, self._counts, self._bounds))
        n_rows = tile.shape[0]
        over_rows(largest.take_tile, n_rows, ROWS_AT_ONCE, array(tile), array(bias), first, self.k, *state)

    def result(self) -> tuple[Tensor, Tensor]:
        """Values and columns of the k largest: [B, k] each; NaN in rows with fewer than k numbers."""
        n_rows = self._counts.numel()
        values, latents = self._values.new_empty(n_rows, self.k), self._latents.new_empty(n_rows, self.k)
        arrays = (t.numpy() for t in (self._values, self._latents, self._counts, values, latents))
        over_rows(largest.take_out, n_rows, ROWS_AT_ONCE, self.k, *arrays)
        return values, latents


def kth_largest(values_P: Tensor, k: int) -> float:
    """The k-th largest value."""
    return float(largest.kth_value(array(values_P), k))


def entries_above(tile: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where tile + bias is above the threshold: values, rows and columns, in no order."""
    tile_array = array(tile)
    limit = tile_array.dtype.type(threshold)
    parts = over_rows(largest.entries_above, tile.shape[0], ROWS_AT_ONCE, tile_array, array(bias), limit)
    if not parts:
        none = torch.empty(0, dtype=torch.int64)
        return tile.new_empty(0), none, none
    values_P, rows_P, columns_P = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return values_P, rows_P, columns_P


def round_rows(matrix: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix into the first columns of a bfloat16 one.

    Returns: each row's norm when rounded, and the norm of what rounding took from it, [rows] each.
    """
    if matrix.dtype != torch.float32:  # the loop works on the 32 bits of float32
        return reference.round_rows(matrix, rounded)
    norms = matrix.new_empty(2, matrix.shape[0])
    bits, out = array(matrix).view(np.uint32), rounded.view(torch.uint16).numpy()
    over_rows(certified.round_rows, matrix.shape[0], MATRIX_ROWS_AT_ONCE, bits, out, norms.numpy())
    return norms[0], norms[1]


def certified_topk(
    pre_BE: Tensor, slack_B: Tensor, x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, k: int, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and latents of the k largest of x0 W^T + b by its bfloat16 product, and which rows are certain.

    slack_B: by how much a product may be too low for its latent's rank. most: candidates (count) beyond which a row is
    in doubt. Returns: [B, k], [B, k], bool [B].
    """
    n_rows = x0_BM.shape[0]
    values, latents = x0_BM.new_empty(n_rows, k), torch.empty(n_rows, k, dtype=torch.int64)
    certain = torch.empty(n_rows, dtype=torch.bool)
    inputs = (array(t) for t in (pre_BE.view(torch.uint16), slack_B, x0_BM, W_EM, b_E))
    outputs = (t.numpy() for t in (values, latents, certain))
    over_rows(certified.certified_rows, n_rows, ROWS_AT_ONCE, *inputs, k, most, *outputs)
    return values, latents, certain


def pairs_together(entries: Entries, room_E: Tensor, least_E: Tensor, first: int, stop: int) -> RowPairs:
    """As the reference's, counted latent by latent."""
    order_P, _, starts = entries.by_latent
    n_places, n_most = entries.latents_P.numel(), int(room_E[stop] - room_E[first])
    inputs = (entries.latents_P.int(), entries.offsets[entries.rows_P + 1], order_P, starts, least_E, room_E)
    partners, n_both = torch.empty(2, n_most, dtype=torch.int32)  # pages that are never written take no memory
    begins_P, counts_P = order_P.new_zeros(2, n_places)
    outputs = (partners, n_both, begins_P, counts_P)
    over_rows(rows.count_pairs, stop - first, LATENTS_AT_ONCE, first, *(array(t) for t in (*inputs, *outputs)))
    offsets = torch.nn.functional.pad(counts_P.cumsum(0), (1, 0))
    sorted_partners, sorted_n_both = torch.empty(2, int(offsets[-1]), dtype=torch.int32)
    arrays = (begins_P, offsets, partners, n_both, sorted_partners, sorted_n_both)
    over_rows(rows.gather_pairs, n_places, PLACES_AT_ONCE, *(array(t) for t in arrays))
    return RowPairs(offsets, sorted_partners, sorted_n_both)


def pair_dots(W_EM: Tensor, entries: Entries, pairs: RowPairs) -> Tensor:
    """<W[i], W[j]> of every pair of latents. Returns: [pairs]."""
    dots = W_EM.new_empty(pairs.partners.numel())
    arrays = (entries.latents_P.int(), pairs.offsets, pairs.partners, W_EM, dots)
    over_rows(rows.pair_dots, entries.latents_P.numel(), PLACES_AT_ONCE, *(array(t) for t in arrays))
    return dots


def add_pair_sums(W_EM: Tensor, entries: Entries, pairs: RowPairs, weights: Tensor, out_EM: Tensor) -> None:
    """Add weight * W[j] to out[i] and weight * W[i] to out[j], for every pair; each thread has columns of its own."""
    latents, n_pairs = entries.latents_P.int(), weights.numel()
    starts = torch.zeros_like(pairs.offsets)
    both_partners, both_weights = latents.new_empty(2 * n_pairs), weights.new_empty(2 * n_pairs)
    inputs = (entries.offsets, latents, pairs.offsets, pairs.partners, weights)
    lists = (starts, both_partners, both_weights)
    over_rows(rows.both_ways, entries.offsets.numel() - 1, ROWS_AT_ONCE, *(array(t) for t in (*inputs, *lists)))
    n_columns = W_EM.shape[1]
    n_steps = -(-n_columns // COLUMNS_IN_STEP)
    width = COLUMNS_IN_STEP * -(-n_steps // torch.get_num_threads())
    arrays = (latents, *lists, W_EM, out_EM)
    over_rows(rows.add_pair_sums, -(-n_columns // width), 1, width, *(array(t) for t in arrays))


def row_products(gradient: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: <gradient, gradient>, <gradient, W> and <W, W>. Returns: [E] each."""
    products = W.new_empty(3, W.shape[0])
    over_rows(rows.row_products, W.shape[0], MATRIX_ROWS_AT_ONCE, array(gradient), array(W), products.numpy())
    return products[0], products[1], products[2]


def adam(
    W: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: AdamStep, along_E: Tensor | None = None
) -> None:
    """As the reference's, in one pass over a matrix."""
    if W.dim() != 2:  # a bias is too small to gain by a loop
        return reference.adam(W, gradient, mean, square, step, along_E)
    along = W.new_zeros(W.shape[0]) if along_E is None else along_E.to(W.dtype)
    # These are computed in float64 and rounded once, in the call.
    size, root = step.rate / (1 - step.beta1**step.number), (1 - step.beta2**step.number) ** 0.5
    betas = step.beta1, 1 - step.beta1, step.beta2, 1 - step.beta2
    numbers = (step.coefficient, *betas, size, root, step.epsilon, step.shrink)
    arrays = (tensor.numpy() for tensor in (W, gradient, mean, square, along))
    over_rows(
        rows.update_rows, W.shape[0], MATRIX_ROWS_AT_ONCE,
        *arrays, along_E is not None, *(along.numpy().dtype.type(number) for number in numbers),
    )  # fmt: skip
