"""The operations in their plainest form: what the other backends have to equal."""

import torch
from torch import Tensor


def weighted_sums(indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor) -> Tensor:
    """For each stretch of pairs, the sum of weight * table[index]. Returns: [stretches, M]."""
    stretches_P = torch.arange(offsets.numel() - 1, device=table.device).repeat_interleave(offsets.diff().long())
    sums = table.new_zeros(offsets.numel() - 1, table.shape[1])
    return sums.index_add(0, stretches_P, weights_P[:, None] * table[indices_P.long()])


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every pair. Returns: [P]."""
    return (left_BM[rows_P.long()] * W_EM[indices_P.long()]).sum(1)


def index_sums(values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
    """The sum of the values at each index. Returns: [n]."""
    return values_P.new_zeros(n).index_add(0, indices_P.long(), values_P)


def row_topk(pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latents of the k largest of each row; of equal values, the first latents. Returns: [B, k] each."""
    values_BE, latents_BE = pre_BE.sort(dim=1, descending=True, stable=True)
    return values_BE[:, :k], latents_BE[:, :k]
