"""Penalties of the similarity of pairs: their sum, and its gradient, for decoder rows and for activations."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.kernels.codes import SparseCodes, offsets_of
from pipeline.objective.competition import CoActive, Competing, Occurrences
from pipeline.objective.row_blocks import Block, RowBlocks, count_cells
from pipeline.saes.base import Workspace

CELLS_PER_PAIR = 10
"""Cells of the rows' squares per competing pair, up to which the squares are faster (measured, CPU)."""
SCRATCH_BYTES = 2**26
"""Of the buffer in which the squares' results wait to be summed by latent."""

PENALTIES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "absolute": (torch.abs, torch.sign),
    "squared": (torch.square, lambda similarity: 2 * similarity),
}
"""Name -> penalty of a similarity, and its derivative."""


class Penalised(NamedTuple):
    """A sum over pairs of c * penalty(similarity)."""

    loss: Tensor
    """0-dim."""
    gradient: Tensor
    """[E, M] of W_dec, or in the layout of the codes' values."""
    absolute: Tensor
    """The sum of the pairs' absolute similarities, 0-dim."""


def of_decoder(W_EM: Tensor, codes: SparseCodes, pairs: Competing, penalty: str, scratch: Workspace) -> Penalised:
    """Of the inner products of decoder rows, by the cheaper of two ways."""
    if CELLS_PER_PAIR * pairs.c.numel() > count_cells(codes):
        return by_rows(W_EM, codes, pairs, penalty, scratch)
    return by_pairs(W_EM, pairs, penalty)


def by_pairs(W_EM: Tensor, pairs: Competing, penalty: str) -> Penalised:
    """Each pair by itself: gathers both its vectors."""
    value, slope = PENALTIES[penalty]
    first, second = pairs.latents()
    offsets = offsets_of(torch.bincount(first, minlength=W_EM.shape[0]))
    codes = SparseCodes(pairs.c, second.to(offsets.dtype), offsets, W_EM.shape[0])
    dots_P = codes.dots(W_EM, W_EM)
    pull = codes.with_values(pairs.c * slope(dots_P))
    gradient = pull.decode(W_EM) + pull.transposed_times(W_EM)
    return Penalised(torch.dot(pairs.c, value(dots_P)), gradient, dots_P.abs().sum())


def by_rows(W_EM: Tensor, codes: SparseCodes, pairs: Competing, penalty: str, scratch: Workspace) -> Penalised:
    """Row by row: a row's K vectors are gathered once for its K x K pairs, and the rest is matrix products.

    A pair counts in one of the rows in which both are on, and is 0 in the others.
    """
    rows = RowBlocks(codes)
    cells = W_EM.new_zeros(rows.n_cells)
    cells[rows.cells(pairs.first_place, pairs.second_place)] = pairs.c
    gradient = torch.zeros_like(W_EM)
    loss, absolute = (W_EM.new_zeros((), dtype=torch.float64) for _ in range(2))
    n_places = SCRATCH_BYTES // (W_EM.shape[1] * W_EM.element_size())
    for blocks in _together(rows.blocks(), n_places):
        start, stop = blocks[0].positions.start, blocks[-1].positions.stop
        pulls_PM = scratch.buffer(max(n_places, stop - start), W_EM.shape[1], like=W_EM)[: stop - start]
        for block in blocks:
            place = slice(block.positions.start - start, block.positions.stop - start)
            parts = _block(W_EM, block, cells[block.cells], penalty, out=pulls_PM[place])
            loss, absolute = loss + parts[0], absolute + parts[1]
        latents_P = torch.cat([block.latents for block in blocks])
        offsets = torch.arange(latents_P.numel() + 1, device=latents_P.device)
        weights_P = W_EM.new_ones(()).expand(latents_P.numel())
        gradient += SparseCodes(weights_P, latents_P, offsets, W_EM.shape[0]).transposed_times(pulls_PM)
    return Penalised(loss.to(W_EM.dtype), gradient, absolute.to(W_EM.dtype))


def of_activations(codes: SparseCodes, pairs: CoActive, where: Occurrences, c: Tensor, penalty: str) -> Penalised:
    """Of (f^T f)_ij / B, f being the codes; all rows in which a pair is on must be in `where`."""
    value, slope = PENALTIES[penalty]
    first, second = where.first_place[where.by_pair], where.second_place[where.by_pair]
    n_both = pairs.n_both.long()
    c = c.to(codes.values_P.dtype)
    left, right = codes.values_P[first], codes.values_P[second]
    similarity = torch.segment_reduce(left * right, "sum", lengths=n_both, unsafe=True) / codes.batch_size
    pull = (c * slope(similarity) / codes.batch_size).repeat_interleave(n_both, output_size=first.numel())
    # Sorted by place, so that every sum has one order.
    places, parts = torch.cat([first, second]), torch.cat([pull * right, pull * left])
    n_parts = torch.bincount(places, minlength=codes.values_P.numel())
    gradient = torch.segment_reduce(parts[places.int().argsort(stable=True)], "sum", lengths=n_parts, unsafe=True)
    absolute = (similarity.abs() * (c > 0)).sum()
    return Penalised(torch.dot(c, value(similarity)), gradient, absolute)


def _block(W_EM: Tensor, block: Block, cells: Tensor, penalty: str, out: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of one rectangle and of its absolute similarities; the gradient of each of its places goes to `out`."""
    value, slope = PENALTIES[penalty]
    n_rows, width = block.shape
    W_RKM = W_EM.index_select(0, block.latents).view(n_rows, width, -1)
    dots_RKK = torch.bmm(W_RKM, W_RKM.transpose(1, 2))
    c_RKK = cells.view(n_rows, width, width)
    value_RKK = value(dots_RKK)
    loss = torch.dot(value_RKK.view(-1), cells)
    absolute_RKK = value_RKK if penalty == "absolute" else dots_RKK.abs()
    absolute = torch.dot(absolute_RKK.view(-1), (cells > 0).to(cells.dtype))
    pull_RKK = (c_RKK + c_RKK.transpose(1, 2)).mul_(slope(dots_RKK))
    torch.bmm(pull_RKK, W_RKM, out=out.view(n_rows, width, -1))
    return loss, absolute


def _together(blocks: Iterable[Block], n_places: int) -> Iterable[list[Block]]:
    """Stretches of blocks with at most n_places places, or one block."""
    kept: list[Block] = []
    for block in blocks:
        if kept and block.positions.stop - kept[0].positions.start > n_places:
            yield kept
            kept = []
        kept.append(block)
    if kept:
        yield kept
