"""The operations on a GPU: Triton kernels where Triton is installed, PyTorch's operations otherwise.

Without atomic additions: a sum runs over its stretch in order, so equal inputs give equal bits. Not yet timed on a GPU.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine import reference
from strata_sae.pipeline.kernels.machine.reference import Entries, RowPairs

# PyTorch's own operations run on a GPU as they are.
adam = reference.adam
entries_above = reference.entries_above
kth_largest = reference.kth_largest
pairs_together = reference.pairs_together
round_rows = reference.round_rows
row_products = reference.row_products
sort_by_index = reference.sort_by_index

ENTRIES_PER_PART = 2**18
"""Entries whose two vectors are in memory at once without Triton (count): 2 GB of them at M 1024 in float32."""


def weighted_sums(
    indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor, out: Tensor | None = None
) -> Tensor:
    """For each stretch of entries, the sum of weight * table[index]. Returns: [stretches, M], in `out`."""
    if _has_triton():
        from strata_sae.pipeline.kernels.machine.triton.sums import weighted_sums as by_triton

        sums = by_triton(indices_P, table, offsets, weights_P)
    else:
        sums = torch.nn.functional.embedding_bag(
            indices_P, table, offsets, mode="sum", per_sample_weights=weights_P, include_last_offset=True
        )
    return sums if out is None else out.copy_(sums)


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every entry. Returns: [P]."""
    if _has_triton():
        from strata_sae.pipeline.kernels.machine.triton.sums import sampled_dots as by_triton

        return by_triton(left_BM, W_EM, rows_P, indices_P)
    parts = zip(rows_P.split(ENTRIES_PER_PART), indices_P.split(ENTRIES_PER_PART), strict=True)
    return torch.cat([torch.linalg.vecdot(left_BM[rows], W_EM[indices]) for rows, indices in parts])


def index_sums(values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
    """The sum of the values at each index. Returns: [n]."""
    # index_add_ would use atomic additions on a GPU, whose order is another in every run.
    order_P = indices_P.argsort(stable=True)
    counts = torch.bincount(indices_P, minlength=n)
    return torch.segment_reduce(values_P[order_P], "sum", lengths=counts, axis=0, unsafe=True)


def row_topk(pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latents of the k largest of each row; of equal values at the cut, any may stay. [B, k] each."""
    # Codes need no order within a row; to sort k values, and to prefer the first of equal ones, would cost a pass each.
    values_BK, latents_BK = pre_BE.topk(k, dim=1, sorted=False)
    return values_BK, latents_BK


def row_topk_of_product(x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, buffer: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As the reference's, with this backend's top-k."""
    return reference.row_topk_of_product(x0_BM, W_EM, b_E, buffer, k, topk=row_topk)


def certified_topk(
    pre_BE: Tensor, slack_B: Tensor, x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, k: int, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's, with this backend's products and top-k."""
    return reference.certified_topk(pre_BE, slack_B, x0_BM, W_EM, b_E, k, most, dots=sampled_dots, topk=row_topk)


def pair_dots(W_EM: Tensor, entries: Entries, pairs: RowPairs) -> Tensor:
    """As the reference's, with this backend's products."""
    return reference.pair_dots(W_EM, entries, pairs, dots=sampled_dots)


def add_pair_sums(W_EM: Tensor, entries: Entries, pairs: RowPairs, weights: Tensor, out_EM: Tensor) -> None:
    """As the reference's, with this backend's sums."""
    reference.add_pair_sums(W_EM, entries, pairs, weights, out_EM, sums=weighted_sums)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
