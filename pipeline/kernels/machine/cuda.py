"""The operations on a GPU: Triton kernels where Triton is there, PyTorch's operations otherwise.

No atomics: a sum runs over its stretch in order, so equal inputs give equal bits. Never measured on a GPU.
"""

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine import reference
from strata_sae.pipeline.kernels.machine.adam import adam, row_products
from strata_sae.pipeline.kernels.machine.plain_pairs import add_pair_sums, pair_dots, pairs_together
from strata_sae.pipeline.kernels.machine.reference import kth_largest, pairs_above, round_rows, sort_by_index

if TYPE_CHECKING:
    from strata_sae.pipeline.kernels.tiles import Tiles

__all__ = [
    "adam",
    "add_pair_sums",
    "kth_largest",
    "pair_dots",
    "pairs_above",
    "pairs_together",
    "round_rows",
    "row_products",
    "sort_by_index",
]

PAIRS_PER_PART = 2**18
"""Pairs whose two vectors are held at once without Triton (count); bounds the memory."""


def weighted_sums(
    indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor, out: Tensor | None = None
) -> Tensor:
    """For each stretch of pairs, the sum of weight * table[index]. Returns: [stretches, M], in `out`."""
    if _has_triton():
        from strata_sae.pipeline.kernels.machine.triton import weighted_sums as by_triton

        sums = by_triton(indices_P, table, offsets, weights_P)
    else:
        sums = torch.nn.functional.embedding_bag(
            indices_P, table, offsets, mode="sum", per_sample_weights=weights_P, include_last_offset=True
        )
    return sums if out is None else out.copy_(sums)


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every pair. Returns: [P]."""
    if _has_triton():
        from strata_sae.pipeline.kernels.machine.triton import sampled_dots as by_triton

        return by_triton(left_BM, W_EM, rows_P, indices_P)
    parts = zip(rows_P.split(PAIRS_PER_PART), indices_P.split(PAIRS_PER_PART), strict=True)
    return torch.cat([torch.linalg.vecdot(left_BM[rows], W_EM[indices]) for rows, indices in parts])


def index_sums(values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
    """The sum of the values at each index. Returns: [n]."""
    order_P = indices_P.argsort(stable=True)
    counts = torch.bincount(indices_P, minlength=n)
    return torch.segment_reduce(values_P[order_P], "sum", lengths=counts, axis=0, unsafe=True)


def row_topk(pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latents of the k largest of each row; which of equal values at the cut stay is not said. [B, k]."""
    values_BK, latents_BK = pre_BE.topk(k, dim=1, sorted=False)
    return values_BK, latents_BK


def row_topk_of_product(tiles: "Tiles", k: int) -> tuple[Tensor, Tensor]:
    """As the reference's, with this backend's top-k."""
    return reference.row_topk_of_product(tiles, k, topk=row_topk)


def certified_topk(
    pre_BE: Tensor, slack_B: Tensor, x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, k: int, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's, with this backend's products and top-k."""
    return reference.certified_topk(pre_BE, slack_B, x0_BM, W_EM, b_E, k, most, dots=sampled_dots, topk=row_topk)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
