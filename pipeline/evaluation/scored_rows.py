"""What metrics are computed from: rows with codes and reconstruction, and facts about the weights."""

from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.code_sums import CodeSums, code_sums
from strata_sae.pipeline.kernels.codes import Codes

TILE_ROWS = 128
"""Rows that are in float64 at once (count): 0.6 MB at width 576, which stays near the processor."""


class TargetRows:
    """Rows that are to be written, which all SAEs share. Sums in float64. Shapes: target_BM, x_BM [B, M]; square_B [B].

    cuts: places at which a batch of some population ends; `ScoredRows` has sums of the rows between them.
    """

    def __init__(self, target_BM: Tensor, cuts: Iterable[int] = ()) -> None:
        self.n_rows, self.d_out = target_BM.shape
        self.x_BM = target_BM.double()
        edges = sorted({*range(0, self.n_rows, TILE_ROWS), *cuts, self.n_rows})
        self.tiles = [slice(start, stop) for start, stop in pairwise(edges)]
        self._sums: dict[tuple[int, int], Tensor] = {}

    @cached_property
    def square_B(self) -> Tensor:
        """||x||^2."""
        return self.x_BM.square().sum(dim=1)

    @cached_property
    def norm_B(self) -> Tensor:
        """||x||."""
        return self.square_B.sqrt()

    def sum_M(self, part: slice) -> Tensor:
        """The sum of some of the rows: [M]."""
        key = (part.start, part.stop)
        if key not in self._sums:
            self._sums[key] = self.x_BM[part].sum(dim=0)
        return self._sums[key]


class ScoredRows:
    """One SAE's codes and reconstruction of rows; sums in float64. Squares, products and sums of codes are [B]."""

    def __init__(
        self, targets: TargetRows, codes: Codes, xhat_BM: Tensor, sums: CodeSums | None = None, n_counted: int = -1
    ) -> None:
        """sums: of the codes, where known. n_counted: how many rows, from the first, they are of (-1: all)."""
        self.targets, self.n_rows, self.d_out = targets, targets.n_rows, targets.d_out
        self._codes = codes
        self.codes = sums or code_sums(codes, targets.n_rows if n_counted < 0 else n_counted)
        self.error_square_B = targets.x_BM.new_empty(self.n_rows)
        """||x - xhat||^2."""
        self.xhat_square_B = torch.empty_like(self.error_square_B)
        """||xhat||^2."""
        self.dot_B = torch.empty_like(self.error_square_B)
        """<x, xhat>."""
        self._error_sums: dict[int, tuple[int, Tensor]] = {}
        # Tile by tile: every float64 matrix is made, used and gone while it is in the cache.
        for tile in targets.tiles:
            x_BM, xhat64_BM = targets.x_BM[tile], xhat_BM[tile].double()
            error_BM = x_BM - xhat64_BM
            self._error_sums[tile.start] = (tile.stop, error_BM.sum(dim=0))
            self.error_square_B[tile] = error_BM.square_().sum(dim=1)
            self.dot_B[tile] = (x_BM * xhat64_BM).sum(dim=1)
            self.xhat_square_B[tile] = xhat64_BM.square().sum(dim=1)

    @cached_property
    def xhat_norm_B(self) -> Tensor:
        """||xhat||."""
        return self.xhat_square_B.sqrt()

    def active_until(self, stop: int) -> Tensor:
        """Rows before `stop` on which each latent is active: int64 [E]."""
        return code_sums(self._codes, stop).active_rows_E

    def error_sum_M(self, part: slice) -> Tensor:
        """The sum of the errors of some rows, which end at a cut: [M]."""
        total_M, start = self.targets.x_BM.new_zeros(self.d_out), part.start
        while start < part.stop:
            start, sum_M = self._error_sums[start]
            total_M += sum_M
        return total_M


class WeightFacts(NamedTuple):
    """What metrics need of an SAE's weights: each latent's largest cosine to another row of a matrix. float64 [E]."""

    decoder_max_cosine_E: Tensor
    encoder_max_cosine_E: Tensor


def weight_facts(W_dec: Tensor, W_enc: Tensor) -> WeightFacts:
    """Of the two matrices of an SAE, [E, M] and [E, d_in]."""
    return WeightFacts(max_cosine(W_dec), max_cosine(W_enc))


def max_cosine(W_EM: Tensor, tile_rows: int = 1024) -> Tensor:
    """Each row's largest cosine to another row, float64 [E], by products in the matrix's own precision.

    A zero row has cosine 0 to all. Works on tiles of `tile_rows` x `tile_rows`: the E x E matrix never exists.
    """
    unit_EM = torch.nn.functional.normalize(W_EM, dim=1)
    best_E = unit_EM.new_full((len(unit_EM),), -1.0)
    for start in range(0, len(unit_EM), tile_rows):
        tile_RM, best_R = unit_EM[start : start + tile_rows], best_E[start : start + tile_rows]
        for other in range(start, len(unit_EM), tile_rows):
            cosine_RR = tile_RM @ unit_EM[other : other + tile_rows].T
            if other == start:
                cosine_RR.fill_diagonal_(-1.0)
            torch.maximum(best_R, cosine_RR.amax(dim=1), out=best_R)
            best_other_R = best_E[other : other + tile_rows]
            torch.maximum(best_other_R, cosine_RR.amax(dim=0), out=best_other_R)
    return best_E.double()
