"""The operations on a CPU: PyTorch's gather-reduce and sampled product; every sum runs in a fixed order."""

import warnings

import torch
from torch import Tensor

from pipeline.kernels.row_topk import row_topk

__all__ = ["index_sums", "row_topk", "sampled_dots", "weighted_sums"]


def weighted_sums(indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor) -> Tensor:
    """For each stretch of pairs, the sum of weight * table[index], in one pass. Returns: [stretches, M]."""
    return torch.nn.functional.embedding_bag(
        indices_P, table, offsets, mode="sum", per_sample_weights=weights_P, include_last_offset=True
    )


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every pair. Returns: [P]."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        pattern = torch.sparse_csr_tensor(
            offsets,
            indices_P,
            left_BM.new_zeros(indices_P.numel()),
            size=(left_BM.shape[0], W_EM.shape[0]),
            check_invariants=False,  # the order of a row's latents does not matter here
        )
    return torch.sparse.sampled_addmm(pattern, left_BM, W_EM.T, beta=0.0).values()


def index_sums(values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
    """The sum of the values at each index, in float64 and in order. Returns: [n]."""
    return torch.bincount(indices_P, weights=values_P, minlength=n).to(values_P.dtype)
