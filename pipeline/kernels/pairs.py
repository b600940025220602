"""Pairs of latents that are on in the same row, held by the places of one such row.

A place is where a latent stands among the pairs (row, latent) of codes, which are sorted by row and, within it, by
latent.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from strata_sae.pipeline.kernels.codes import SparseCodes


@dataclass(frozen=True)
class RowPairs:
    """N pairs of latents i < j, each once: at the first place of i in whose row j is on, too; sorted by place."""

    offsets: Tensor
    """[P + 1]: i at place p has the pairs offsets[p] to offsets[p + 1] - 1."""
    partners: Tensor
    """The place of j in the same row: int32 [N]."""
    n_both: Tensor
    """Rows in which both are on: int32 [N]."""

    def first_places(self) -> Tensor:
        """The place of i of every pair."""
        places_P = torch.arange(self.offsets.numel() - 1, device=self.offsets.device)
        return places_P.repeat_interleave(self.offsets.diff(), output_size=self.partners.numel())


def partner_offsets(codes: "SparseCodes") -> Tensor:
    """How many times latents below each one were on together with a larger latent. Returns: [E + 1]."""
    order_P, rows_P, starts = codes.by_latent
    larger_P = codes.offsets[rows_P + 1] - order_P - 1
    return torch.nn.functional.pad(larger_P.cumsum(0), (1, 0))[starts]
