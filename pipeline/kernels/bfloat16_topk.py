"""The k largest pre-activations by bfloat16 products, exactly: a bound on their error says who can be left out.

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

from pipeline.kernels.backends import backend_of
from pipeline.kernels.codes import offsets_of
from pipeline.kernels.row_topk import kth_bound, kth_candidates, largest_candidates, true_places

MOST_CANDIDATES = 8
"""Candidates (in multiples of k) from which on a row is computed in float32 in full."""
ROUNDING = 2.0**-8
"""Largest relative error of rounding to bfloat16."""
ACCUMULATION = 2.0**-22
"""Largest relative error of a float32 sum per summand (four times what any order can do)."""
ROUNDED_UP = 1 + 2.0**-10
"""Factor that makes a norm computed in float32 no less than it is."""
COLUMNS_MULTIPLE = 32
"""Rows of the bfloat16 matrices are filled up with zeros to a multiple of so many columns: products run faster."""


@dataclass(frozen=True)
class Rounded:
    """A matrix in bfloat16 and more columns; limits on its rows' norms, before and after, and on what they lost."""

    matrix: Tensor
    norm: Tensor
    lost: Tensor


class Bfloat16Encoder:
    """x0 W^T + b in bfloat16, to find the k largest of float32. Build it anew when the weights change."""

    def __init__(self, W_EM: Tensor, b_E: Tensor):
        if W_EM.is_cuda:  # a product split into bfloat16 partial sums would break the bound
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.W_EM, self.b_E = W_EM, b_E
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
        flat_P, rows_P, counts_B = self.candidates(x0_BM, k)
        certain_B = (counts_B >= k) & (counts_B <= MOST_CANDIDATES * k)
        values_BK, latents_BK = x0_BM.new_empty(x0_BM.shape[0], k), counts_B.new_empty(x0_BM.shape[0], k)
        in_full = (~certain_B).nonzero().squeeze(1)
        if in_full.numel():
            values_BK[in_full], latents_BK[in_full] = backend_of(x0_BM).row_topk(product(x0_BM[in_full]), k)
            flat_P = flat_P[certain_B[rows_P]]
        if in_full.numel() < x0_BM.shape[0]:
            found = self._largest(flat_P, torch.where(certain_B, counts_B, 0), x0_BM, k)
            values_BK[certain_B], latents_BK[certain_B] = found
        return values_BK, latents_BK

    def candidates(self, x0_BM: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Every latent that may be among the k largest of a row, but for rows with NaN, which have none.

        Returns: rising flat places [P], their rows [P], their number in each row [B].
        """
        batch_size, n_latents = x0_BM.shape[0], self.W_EM.shape[0]
        rounded = round_rows(x0_BM, [x0_BM.new_ones(batch_size, dtype=torch.bfloat16)] * 2)
        pre_BE = rounded.matrix @ self.rounded.matrix.T
        slack_B = 2 * self.error(rounded)
        flat_P = true_places(pre_BE >= _lowered(kth_bound(pre_BE, k), slack_B)[:, None])
        rows_P = flat_P.div(n_latents, rounding_mode="floor")
        counts_B = torch.bincount(rows_P, minlength=batch_size)
        if batch_size and k <= int(counts_B.amin()) and int(counts_B.amax()) <= MOST_CANDIDATES * k:
            # Among them are the k largest of the bfloat16 products: the bound was low, and can now be exact.
            pre_P = pre_BE.reshape(-1)[flat_P]
            kth_B = kth_candidates(pre_P, rows_P, counts_B, k)
            kept_P = pre_P >= _lowered(kth_B, slack_B)[rows_P]
            flat_P, rows_P = flat_P[kept_P], rows_P[kept_P]
            counts_B = torch.bincount(rows_P, minlength=batch_size)
        return flat_P, rows_P, counts_B

    def error(self, rounded: Rounded) -> Tensor:
        """`error` above, plus that of the float32 values that are compared in the end. Returns: [B]."""
        sums = ACCUMULATION * self.rounded.matrix.shape[1] * (rounded.norm * self.widest + self.bias)
        return rounded.lost * self.widest + rounded.norm * self.worst + self.bias_lost + 2 * sums

    def _largest(self, flat_P: Tensor, counts_B: Tensor, x0_BM: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest candidates, by their values in float32, of the rows that have any. Returns: [rows, k] each."""
        n_latents = self.W_EM.shape[0]
        rows_P, latents_P = flat_P.div(n_latents, rounding_mode="floor"), flat_P % n_latents
        dots_P = backend_of(x0_BM).sampled_dots(x0_BM, self.W_EM, rows_P, latents_P, offsets_of(counts_B))
        values_P = dots_P + self.b_E[latents_P]
        present_B = counts_B > 0
        renumbered_P = (present_B.cumsum(0) - 1)[rows_P]
        kept_P = largest_candidates(values_P, renumbered_P, counts_B[present_B], k)
        return values_P[kept_P].view(-1, k), latents_P[kept_P].view(-1, k)


def round_rows(matrix: Tensor, more_columns: list[Tensor]) -> Rounded:
    """A float32 matrix in bfloat16, with more columns (bfloat16) and zeros after its own."""
    n_rows, n_columns = matrix.shape
    width = n_columns + len(more_columns)
    rounded = matrix.new_zeros(n_rows, width + -width % COLUMNS_MULTIPLE, dtype=torch.bfloat16)
    rounded[:, :n_columns] = matrix
    for place, column in enumerate(more_columns, n_columns):
        rounded[:, place] = column
    lost = torch.linalg.vector_norm(matrix - rounded[:, :n_columns], dim=1) * ROUNDED_UP
    norm = torch.linalg.vector_norm(rounded[:, :n_columns], dim=1, dtype=torch.float32) * ROUNDED_UP + lost
    return Rounded(rounded, norm, lost)


def _lowered(kth_B: Tensor, slack_B: Tensor) -> Tensor:
    """What a bfloat16 product of a latent among the k largest reaches, if k of them reach kth_B. In bfloat16."""
    threshold_B = kth_B.float() - ROUNDING * kth_B.float().abs() - slack_B
    return (threshold_B - 2 * ROUNDING * threshold_B.abs()).bfloat16()  # rounded down
