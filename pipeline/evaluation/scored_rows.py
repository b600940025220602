"""What metrics are computed from: a batch of rows with codes and reconstruction, and facts about the weights."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes


class ScoredRows:
    """Rows, codes and reconstruction; sums in float64. Shapes: target_BM, xhat_BM [B, M]; squares and products [B]."""

    def __init__(self, target_BM: Tensor, codes: Codes, xhat_BM: Tensor) -> None:
        self.n_rows, self.d_out = target_BM.shape
        self.codes = codes
        self.target_BM = target_BM
        """As it was read. All SAEs share it, so that a metric may keep it without a copy."""
        self.x_BM = target_BM.double()
        self.xhat_BM = xhat_BM.double()

    @cached_property
    def active_rows_E(self) -> Tensor:
        """Rows of this batch on which each latent is active (count), int64."""
        return self.codes.latent_sums((self.codes.values != 0).float()).long()

    @cached_property
    def error_BM(self) -> Tensor:
        """The error e = x - xhat."""
        return self.x_BM - self.xhat_BM

    @cached_property
    def error_square_B(self) -> Tensor:
        """||x - xhat||^2."""
        return self.error_BM.square().sum(dim=1)

    @cached_property
    def square_B(self) -> Tensor:
        """||x||^2."""
        return self.x_BM.square().sum(dim=1)

    @cached_property
    def xhat_square_B(self) -> Tensor:
        """||xhat||^2."""
        return self.xhat_BM.square().sum(dim=1)

    @cached_property
    def dot_B(self) -> Tensor:
        """<x, xhat>."""
        return (self.x_BM * self.xhat_BM).sum(dim=1)

    @cached_property
    def sum_M(self) -> Tensor:
        """The sum of the rows: [M]."""
        return self.x_BM.sum(dim=0)

    @cached_property
    def error_sum_M(self) -> Tensor:
        """The sum of the errors: [M]."""
        return self.error_BM.sum(dim=0)


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
