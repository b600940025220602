"""The operations on a GPU: Triton kernels where Triton is there, PyTorch's operations otherwise.

No atomics: a sum runs over its stretch in order, so equal inputs give equal bits. Never measured on a GPU.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

PAIRS_PER_PART = 2**18
"""Pairs whose two vectors are held at once without Triton (count); bounds the memory."""


def weighted_sums(indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor) -> Tensor:
    """For each stretch of pairs, the sum of weight * table[index]. Returns: [stretches, M]."""
    if _has_triton():
        from pipeline.kernels.triton_ops import weighted_sums as by_triton

        return by_triton(indices_P, table, offsets, weights_P)
    return torch.nn.functional.embedding_bag(
        indices_P, table, offsets, mode="sum", per_sample_weights=weights_P, include_last_offset=True
    )


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every pair. Returns: [P]."""
    if _has_triton():
        from pipeline.kernels.triton_ops import sampled_dots as by_triton

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


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
