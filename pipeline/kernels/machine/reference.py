"""The operations in their plainest form, made of PyTorch's own: what the other backends must equal.

`P` counts entries: (row, latent) pairs that codes hold, one value each.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine.compiled.certified import ROUNDING

LATENTS_AT_ONCE = 2048
"""Latents of a tile, at least (count): narrower products run slower."""
# With that kept, a tile has all rows of the batch where the buffer allows it: W, the largest matrix, is then read once.


Sums = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Dots = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
TopK = Callable[[Tensor, int], tuple[Tensor, Tensor]]


class AdamStep(NamedTuple):
    """The numbers of one update of Adam."""

    number: int
    """Of the update, from 1 on: Adam corrects its moments by it."""
    rate: float
    beta1: float
    beta2: float
    epsilon: float
    coefficient: float
    """What gradients are multiplied by to clip them."""
    shrink: float = 1.0
    """What parameters are multiplied by before they move: weight decay apart from the gradient (AdamW)."""


class Entries(NamedTuple):
    """The entries of codes, sorted by row and, within it, by latent; a place is where an entry stands among them."""

    latents_P: Tensor
    rows_P: Tensor
    offsets: Tensor
    """[B + 1]: row b has the places offsets[b] to offsets[b + 1] - 1."""
    by_latent: tuple[Tensor, Tensor, Tensor]
    """What `sort_by_index` gives for the latents."""


class RowPairs(NamedTuple):
    """Pairs of latents i < j, each once: at the first place of i in whose row j is active, too; sorted by place."""

    offsets: Tensor
    """[P + 1]: i at place p has the pairs offsets[p] to offsets[p + 1] - 1."""
    partners: Tensor
    """The place of j in the same row: int32 [pairs]."""
    n_both: Tensor
    """Rows in which both are active: int32 [pairs]."""

    def first_places(self) -> Tensor:
        """The place of i of every pair."""
        places_P = torch.arange(self.offsets.numel() - 1, device=self.offsets.device)
        return places_P.repeat_interleave(self.offsets.diff(), output_size=self.partners.numel())


def weighted_sums(
    indices_P: Tensor, table: Tensor, offsets: Tensor, weights_P: Tensor, out: Tensor | None = None
) -> Tensor:
    """For each stretch of entries, the sum of weight * table[index]. Returns: [stretches, M], in `out`."""
    stretches_P = torch.arange(offsets.numel() - 1, device=table.device).repeat_interleave(offsets.diff().long())
    sums = table.new_zeros(offsets.numel() - 1, table.shape[1])
    # .long(): not every operation of PyTorch takes 32-bit indices, which codes may have.
    sums.index_add_(0, stretches_P, weights_P[:, None] * table[indices_P.long()])
    return sums if out is None else out.copy_(sums)


def sampled_dots(left_BM: Tensor, W_EM: Tensor, rows_P: Tensor, indices_P: Tensor, offsets: Tensor) -> Tensor:
    """<left_BM[row], W_EM[index]> of every entry. Returns: [P]."""
    return (left_BM[rows_P.long()] * W_EM[indices_P.long()]).sum(1)


def index_sums(values_P: Tensor, indices_P: Tensor, n: int) -> Tensor:
    """The sum of the values at each index. Returns: [n]."""
    return values_P.new_zeros(n).index_add(0, indices_P.long(), values_P)


def sort_by_index(indices_P: Tensor, rows_P: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The order that sorts entries by index, equal ones as they come; their rows; where each index begins: [n + 1]."""
    order_P = indices_P.argsort(stable=True)
    starts = torch.nn.functional.pad(torch.bincount(indices_P, minlength=n).cumsum(0), (1, 0))
    return order_P, rows_P[order_P], starts


def kth_largest(values_P: Tensor, k: int) -> float:
    """The k-th largest value."""
    return float(values_P.topk(k, sorted=False).values.min())


def entries_above(tile: Tensor, bias: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where tile + bias is above the threshold: values, rows and columns."""
    values = tile + bias
    rows_P, columns_P = (values > threshold).nonzero(as_tuple=True)
    return values[rows_P, columns_P], rows_P, columns_P


def row_topk(pre_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and latents of the k largest of each row; of equal values, the first latents. Returns: [B, k] each."""
    # A stable sort, not topk, which leaves open which of equal values it returns.
    values_BE, latents_BE = pre_BE.sort(dim=1, descending=True, stable=True)
    return values_BE[:, :k], latents_BE[:, :k]


def row_topk_of_product(
    x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, buffer: Tensor, k: int, *, topk: TopK = row_topk
) -> tuple[Tensor, Tensor]:
    """As `row_topk` of x0 W^T + b, as many rows at a time as the buffer [rows, E] has. topk: another backend's."""
    parts = x0_BM.split(buffer.shape[0])
    values, latents = zip(*(topk(product(part, W_EM, b_E, buffer), k) for part in parts), strict=True)
    return torch.cat(values), torch.cat(latents)


def product(x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, buffer: Tensor) -> Tensor:
    """x0 W^T + b, in the first rows of the buffer. Returns: [B, E], valid until the buffer is used again."""
    return torch.addmm(b_E, x0_BM, W_EM.T, out=buffer[: x0_BM.shape[0]])


def row_blocks(x0_BM: Tensor, buffer: Tensor) -> tuple[Tensor, ...]:
    """The rows in blocks, each of which `latent_tiles` cuts along the latents."""
    return x0_BM.split(buffer.numel() // _latents_at_once(x0_BM, buffer))


def latent_tiles(
    block_BM: Tensor, x0_BM: Tensor, W_EM: Tensor, b_E: Tensor, buffer: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """A block's tiles of latents: the first latent, the product without the bias [B, latents], and the bias.

    A tile is valid until the next one. x0_BM: all rows, of which the block is a part.
    """
    width = _latents_at_once(x0_BM, buffer)
    for first in range(0, W_EM.shape[0], width):
        # The bias is left to the loop that reads the tile next: added here, it would cost a pass over the tile.
        W, b = W_EM[first : first + width], b_E[first : first + width]
        shape = block_BM.shape[0], W.shape[0]
        yield first, torch.mm(block_BM, W.T, out=buffer.view(-1)[: shape[0] * shape[1]].view(shape)), b


def _latents_at_once(x0_BM: Tensor, buffer: Tensor) -> int:
    return min(buffer.shape[1], max(LATENTS_AT_ONCE, buffer.numel() // x0_BM.shape[0]))


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
    dots: Dots = sampled_dots,
    topk: TopK = row_topk,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and latents of the k largest of x0 W^T + b by its bfloat16 product, and which rows are certain.

    slack_B: by how much a product may be too low for its latent's rank. most: candidates (count) beyond which a row is
    in doubt. dots, topk: another backend's. Returns: [B, k], [B, k], bool [B].
    """
    # The k-th largest product may have been rounded up, and a latent's own down: both errors are taken off.
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


def occurrences(entries: Entries, first: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every time that a latent from `first` to stop - 1 is active together with a larger one, sorted by these latents.

    Returns: the places of both, those of a pair of latents together and by rising row; how many each pair has.
    """
    order_P, rows_P, starts = entries.by_latent
    bits = max(starts.numel() - 2, 1).bit_length()
    # Numbers of 32 bits sort in half the passes of 64; a shift costs a tenth of a division.
    latents_P = entries.latents_P.to(torch.int32 if 2 * bits < 32 else torch.int64)
    chosen = slice(int(starts[first]), int(starts[stop]))
    places = order_P[chosen]
    counts = entries.offsets[rows_P[chosen] + 1] - places - 1  # the entries after it in its row: larger latents
    n_keys = int(counts.sum())
    source = torch.repeat_interleave(counts, output_size=n_keys)
    skip = places + 1 - (counts.cumsum(0) - counts)
    second_place = torch.arange(n_keys, device=source.device).add_(skip.index_select(0, source))
    first_place = places.index_select(0, source)
    keys = (latents_P << bits).index_select(0, first_place) | latents_P.index_select(0, second_place)
    keys, by_pair = keys.sort(stable=True)
    _, n_both = torch.unique_consecutive(keys, return_counts=True)
    return first_place.index_select(0, by_pair), second_place.index_select(0, by_pair), n_both


def partner_offsets(entries: Entries) -> Tensor:
    """How many times latents below each one are active together with a larger latent. Returns: [E + 1]."""
    order_P, rows_P, starts = entries.by_latent
    larger_P = entries.offsets[rows_P + 1] - order_P - 1
    return torch.nn.functional.pad(larger_P.cumsum(0), (1, 0))[starts]


def pairs_together(entries: Entries, room_E: Tensor, least_E: Tensor, first: int, stop: int) -> RowPairs:
    """Pairs of a latent from `first` to stop - 1 and a larger one, active together at least min(least_E) times.

    room_E: what `partner_offsets` gives.
    """
    latents_P = entries.latents_P
    first_place, second_place, n_both = occurrences(entries, first, stop)
    begins = n_both.cumsum(0) - n_both
    first_place, second_place = first_place[begins], second_place[begins]
    least = torch.minimum(least_E[latents_P[first_place]], least_E[latents_P[second_place]])
    kept = (n_both >= least).nonzero().squeeze(1)
    n_places = latents_P.numel()
    order = kept[(first_place[kept] * n_places + second_place[kept]).argsort()]
    counts_P = torch.bincount(first_place[order], minlength=n_places)
    offsets = torch.nn.functional.pad(counts_P.cumsum(0), (1, 0))
    return RowPairs(offsets, second_place[order].int(), n_both[order].int())


def pair_dots(W_EM: Tensor, entries: Entries, pairs: RowPairs, *, dots: Dots = sampled_dots) -> Tensor:
    """<W[i], W[j]> of every pair of latents. dots: another backend's. Returns: [pairs]."""
    return dots(W_EM, W_EM, *_latents(entries, pairs), pairs.offsets)


def add_pair_sums(
    W_EM: Tensor, entries: Entries, pairs: RowPairs, weights: Tensor, out_EM: Tensor, *, sums: Sums = weighted_sums
) -> None:
    """Add weight * W[j] to out[i] and weight * W[i] to out[j], for every pair. sums: another backend's."""
    i, j = _latents(entries, pairs)
    for here, there in ((i, j), (j, i)):
        order, sorted_there, starts = sort_by_index(here, there, W_EM.shape[0])
        out_EM += sums(sorted_there, W_EM, starts, weights[order])


def _latents(entries: Entries, pairs: RowPairs) -> tuple[Tensor, Tensor]:
    return entries.latents_P[pairs.first_places()], entries.latents_P.index_select(0, pairs.partners)


def row_products(gradient: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: <gradient, gradient>, <gradient, W> and <W, W>. Returns: [E] each."""
    return (gradient * gradient).sum(1), (gradient * W).sum(1), (W * W).sum(1)


def adam(
    W: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: AdamStep, along_E: Tensor | None = None
) -> None:
    """Change W, mean and square in place; the gradient is used up.

    along_E: the rows of W have norm 1; the update follows gradient - along_E * W, which leaves their norms as they are,
    and then gives them norm 1 again. Source: Kingma & Ba 2014, algorithm 1; `grad_scale`, a divisor, applies the clip.
    Weight decay: Loshchilov & Hutter 2019, algorithm 2, as in PyTorch's AdamW.
    """
    if along_E is not None:
        gradient.addcmul_(W, along_E[:, None], value=-1.0)
    if step.shrink != 1.0:
        W.mul_(step.shrink)
    coefficient = step.coefficient
    if W.dtype == torch.float64:  # grad_scale is a float32, whatever the gradient is
        gradient.mul_(coefficient)
        coefficient = 1.0
    scale = None if coefficient == 1.0 else torch.tensor(1.0 / coefficient, dtype=torch.float32, device=W.device)
    number = torch.tensor(step.number, dtype=torch.float32, device=W.device)
    # The fused operation reads and writes each matrix once; PyTorch's optimiser would also need gradients in .grad.
    torch._fused_adam_(
        [W], [gradient], [mean], [square], [], [number],
        lr=step.rate, beta1=step.beta1, beta2=step.beta2, weight_decay=0.0, eps=step.epsilon,
        amsgrad=False, maximize=False, grad_scale=scale, found_inf=None,
    )  # fmt: skip
    if along_E is not None:  # eps keeps a row of zeros at 0; norms are 1 to within its size
        W.div_(torch.linalg.vector_norm(W, dim=1, keepdim=True) + torch.finfo(W.dtype).eps)
