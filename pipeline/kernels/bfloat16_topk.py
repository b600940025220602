"""The k largest pre-activations by bfloat16 products, exactly: a bound on their error says which can be left out.

With x, W and b rounded to xb, Wb and bb (b in two parts), a = <x, W_e> + b_e and the bfloat16 product's float32 sum s,

    |a - s| <= error = |x - xb| |Wb_e| + |x| |W_e - Wb_e| + |b_e - bb_e| + accumulation * M (|xb| |Wb_e| + |bb_e|)

by Cauchy-Schwarz. Rounding s to bfloat16 keeps order. So if k latents are rounded to at least L, they have
a >= L - 2^-8 |L| - error, and a latent rounded to less than L - 2^-8 |L| - 2 error cannot be among the k largest.
The others are computed again in float32; rows in which too many are left are computed in full.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine.backend import backend_of

CANDIDATES_PER_K = 8
"""A row with more candidates than this times k is computed in full in float32 (count)."""
# Most rows have little more than k candidates. A row with many more, such as one of nearly equal values, is quicker in
# full: gathered inner products run at a fraction of a matrix product's speed.
ACCUMULATION = 2.0**-22
"""Largest relative error of a float32 sum, per summand."""
# In any order of summing, rounding to nearest errs by at most 2^-24 per summand; four times as much leaves room for
# hardware that rounds otherwise.
ROUNDED_UP = 1 + 2.0**-10
"""Factor that makes a norm computed in float32 an upper limit."""
# Such a norm of M numbers has a relative error of at most M * 2^-24, which is 2^-10 at M = 16,384.
COLUMNS_MULTIPLE = 32
"""Rows of the bfloat16 matrices get zeros up to a multiple of this (count): products run faster."""


@dataclass(frozen=True)
class Rounded:
    """A matrix in bfloat16 with more columns; limits on its rows' norms, and on the norms of what rounding took."""

    matrix: Tensor
    norm: Tensor
    lost: Tensor


class Bfloat16Encoder:
    """x0 W^T + b in bfloat16, to find the k largest of the float32 product. Valid until the weights change."""

    def __init__(self, W_EM: Tensor, b_E: Tensor):
        if W_EM.is_cuda:  # partial sums in bfloat16 would break the bound
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.W_EM, self.b_E = W_EM, b_E
        # The product includes the bias, as two more columns that meet columns of ones. One part keeps 8 of its 24 bits,
        # too few for a large bias; two parts keep 16.
        high_E = b_E.bfloat16()
        low_E = (b_E - high_E).bfloat16()
        self.rounded = round_rows(W_EM, [high_E, low_E])
        self.widest = float(self.rounded.norm.amax())
        self.worst = float(self.rounded.lost.amax())
        self.bias = ROUNDED_UP * float(high_E.float().abs().amax() + low_E.float().abs().amax())
        self.bias_lost = ROUNDED_UP * float((b_E - high_E - low_E).abs().amax())

    def row_topk(self, x0_BM: Tensor, k: int, product: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """As `row_topk` of the float32 product, which `product` gives for the rows that need it. Returns: [B, k] each.

        Values are summed in another order than in a matrix product: latents closer than that may change places.
        """
        rounded = round_rows(x0_BM, [x0_BM.new_ones(x0_BM.shape[0], dtype=torch.bfloat16)] * 2)
        pre_BE, slack_B = rounded.matrix @ self.rounded.matrix.T, 2 * self.error(rounded)
        backend = backend_of(x0_BM)
        values_BK, latents_BK, certain_B = backend.certified_topk(
            pre_BE, slack_B, x0_BM, self.W_EM, self.b_E, k, min(CANDIDATES_PER_K * k, self.W_EM.shape[0])
        )
        in_full = (~certain_B).nonzero().squeeze(1)
        if in_full.numel():
            values_BK[in_full], latents_BK[in_full] = backend.row_topk(product(x0_BM[in_full]), k)
        return values_BK, latents_BK

    def error(self, rounded: Rounded) -> Tensor:
        """`error` above, plus that of the float32 values that are compared in the end. Returns: [B]."""
        sums = ACCUMULATION * self.rounded.matrix.shape[1] * (rounded.norm * self.widest + self.bias)
        return rounded.lost * self.widest + rounded.norm * self.worst + self.bias_lost + 2 * sums


def round_rows(matrix: Tensor, more_columns: list[Tensor]) -> Rounded:
    """A float32 matrix in bfloat16, with more columns (bfloat16) and zeros after its own."""
    n_rows, n_columns = matrix.shape
    width = n_columns + len(more_columns)
    rounded = matrix.new_empty(n_rows, width + -width % COLUMNS_MULTIPLE, dtype=torch.bfloat16)
    rounded[:, n_columns:] = 0
    for place, column in enumerate(more_columns, n_columns):
        rounded[:, place] = column
    norm, lost = backend_of(matrix).round_rows(matrix, rounded)
    return Rounded(rounded, norm * ROUNDED_UP + lost * ROUNDED_UP, lost * ROUNDED_UP)
