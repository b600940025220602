"""The codes of a batch as rectangles: rows of about equal length together, so that matrix products can take them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.kernels.codes import SparseCodes

ROWS_PER_BLOCK = 32
"""Rows of one rectangle (count): with M 576 and 32 latents on, its gathered vectors stay in the cache."""


class Block(NamedTuple):
    """One rectangle of R rows, each of K places (the longest row's; shorter ones are padded with latent 0)."""

    latents: Tensor
    """Of all places, row after row: [R * K]."""
    positions: slice
    """Of its places among those of all blocks."""
    cells: slice
    """Of its R squares of K x K among those of all blocks."""
    shape: tuple[int, int]
    """R and K."""


class RowBlocks:
    """Where each pair of `codes` stands in rectangles of ROWS_PER_BLOCK rows, longest rows first."""

    def __init__(self, codes: SparseCodes):
        counts_B = codes.offsets.diff()
        order_B = counts_B.argsort(descending=True, stable=True)
        self._widths: list[int] = counts_B[order_B[::ROWS_PER_BLOCK]].tolist()
        self._batch_size = codes.batch_size
        width_B, starts_B, cells_B = (torch.empty_like(counts_B) for _ in range(3))
        sorted_B = counts_B.new_tensor(self._widths).repeat_interleave(ROWS_PER_BLOCK)[: codes.batch_size]
        width_B[order_B] = sorted_B
        starts_B[order_B] = sorted_B.cumsum(0) - sorted_B
        cells_B[order_B] = sorted_B.square().cumsum(0) - sorted_B.square()
        rows_P = codes.rows_P
        self.slot_P = torch.arange(rows_P.numel(), device=rows_P.device) - codes.offsets[rows_P]
        self.row_of_cells_P = cells_B[rows_P] + self.slot_P * width_B[rows_P]
        sizes = [(rows, width) for rows, width in self._sizes()]
        self.n_cells = sum(rows * width**2 for rows, width in sizes)
        self._latents = codes.indices_P.new_zeros(sum(rows * width for rows, width in sizes))
        self._latents[starts_B[rows_P] + self.slot_P] = codes.indices_P

    def cells(self, first_place: Tensor, second_place: Tensor) -> Tensor:
        """The cell in which the latents at two places of one row meet."""
        return self.row_of_cells_P.index_select(0, first_place) + self.slot_P.index_select(0, second_place)

    def blocks(self) -> Iterator[Block]:
        """All rectangles."""
        start = cell = 0
        for n_rows, width in self._sizes():
            positions = slice(start, start + n_rows * width)
            yield Block(self._latents[positions], positions, slice(cell, cell + n_rows * width**2), (n_rows, width))
            start, cell = positions.stop, cell + n_rows * width**2

    def _sizes(self) -> Iterator[tuple[int, int]]:
        for start, width in zip(range(0, self._batch_size, ROWS_PER_BLOCK), self._widths, strict=True):
            if width > 0:
                yield min(ROWS_PER_BLOCK, self._batch_size - start), width


def count_cells(codes: SparseCodes) -> int:
    """How many cells the squares of all rows have, padding apart."""
    return int(codes.offsets.diff().square().sum())
