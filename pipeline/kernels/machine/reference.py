"""The operations in their plainest form: what the other backends have to equal."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine.adam import adam, row_products
from strata_sae.pipeline.kernels.machine.compiled.certified import ROUNDING
from strata_sae.pipeline.kernels.machine.plain_pairs import add_pair_sums, pair_dots, pairs_together

if TYPE_CHECKING:
    from strata_sae.pipeline.kernels.tiles import Tiles

__all__ = ["adam", "add_pair_sums", "pair_dots", "pairs_together", "row_products"]


def weighted_sums(
    indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor, out: Tensor | None = None
) -> Tensor:
    """For each stretch of pairs, the sum of weight * table[index]. Returns: [stretches, M], in `out`."""
    stretches_P = torch.arange(offsets.numel() - 1, device=table.device).repeat_interleave(offsets.diff().long())
    sums = table.new_zeros(offsets.numel() - 1, table.shape[1])
    sums.index_add_(0, stretches_P, weights_P[:, None] * table[indices_P.long()])
    return sums if out is None else out.copy_(sums)


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every pair. Returns: [P]."""
    return (left_BM[rows_P.long()] * W_EM[indices_P.long()]).sum(1)


def index_sums(values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
    """The sum of the values at each index. Returns: [n]."""
    return values_P.new_zeros(n).index_add(0, indices_P.long(), values_P)


def sort_by_index(indices_P: Tensor, rows_P: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The order that sorts pairs by index, equal ones as they come; their rows; where each index begins: [n + 1]."""
    order_P = indices_P.argsort(stable=True)
    starts = torch.nn.functional.pad(torch.bincount(indices_P, minlength=n).cumsum(0), (1, 0))
    return order_P, rows_P[order_P], starts


def kth_largest(values_P: Tensor, k: int) -> float:
    """The k-th largest value."""
    return float(values_P.topk(k, sorted=False).values.min())


def pairs_above(tile: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where tile + bias is above the threshold: values, rows and columns of such pairs."""
    values = tile + bias
    rows_P, columns_P = (values > threshold).nonzero(as_tuple=True)
    return values[rows_P, columns_P], rows_P, columns_P


def row_topk(pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latents of the k largest of each row; of equal values, the first latents. Returns: [B, k] each."""
    values_BE, latents_BE = pre_BE.sort(dim=1, descending=True, stable=True)
    return values_BE[:, :k], latents_BE[:, :k]


def row_topk_of_product(
    tiles: "Tiles", k: int, *, topk: Callable[..., tuple[Tensor, Tensor]] = row_topk
) -> tuple[Tensor, Tensor]:
    """As `row_topk` of x0 W^T + b, some rows at a time. topk: another backend's."""
    values, latents = zip(*(topk(tiles.product(rows), k) for rows in tiles.parts()), strict=True)
    return torch.cat(values), torch.cat(latents)


def round_rows(matrix: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix into the first columns of a bfloat16 one.

    Returns: each row's norm when rounded, and the norm of what rounding took from it, [rows] each.
    """
    rounded[:, : matrix.shape[1]] = matrix
    after = rounded[:, : matrix.shape[1]].to(matrix.dtype)
    return torch.linalg.vector_norm(after, dim=1), torch.linalg.vector_norm(matrix - after, dim=1)


def certified_topk(
    pre_BE: Tensor,
    slack_B: Tensor,
    x0_BM: Tensor,
    W_EM: Tensor,
    b_E: Tensor,
    k: int,
    most: int,
    *,
    dots: Callable[..., Tensor] = sampled_dots,
    topk: Callable[..., tuple[Tensor, Tensor]] = row_topk,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and latents of the k largest of x0 W^T + b by its bfloat16 product, and which rows are certain.

    slack_B: how much lower than its true rank allows a product may be. most: candidates (count) beyond which a row is
    in doubt. dots, topk: another backend's. Returns: [B, k], [B, k], bool [B].
    """
    kth_B = pre_BE.topk(k, dim=1).values[:, -1].double()
    low_B = kth_B - ROUNDING * kth_B.abs() - slack_B
    near_BE = pre_BE.double() >= low_B[:, None]
    counts_B = near_BE.sum(1)
    certain_B = (counts_B >= k) & (counts_B <= most)
    rows_P, latents_P = (near_BE & certain_B[:, None]).nonzero(as_tuple=True)
    values_P = dots(x0_BM, W_EM, rows_P, latents_P, low_B) + b_E[latents_P]
    counts_B = torch.where(certain_B, counts_B, 0)
    slots_P = torch.arange(rows_P.numel(), device=rows_P.device) - (counts_B.cumsum(0) - counts_B)[rows_P]
    padded = x0_BM.new_full((x0_BM.shape[0], most), -torch.inf)
    padded[rows_P, slots_P] = values_P
    latents = latents_P.new_zeros(padded.shape)
    latents[rows_P, slots_P] = latents_P
    values_BK, slots_BK = topk(padded, k)
    return values_BK, latents.gather(1, slots_BK), certain_B
