"""Pairs of latents that are active in the same row, each held at the place of one such row.

A place is where a latent stands among the entries of codes, which are sorted by row and, within it, by latent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import SparseCodes
from strata_sae.pipeline.kernels.machine import reference
from strata_sae.pipeline.kernels.machine.backend import backend_of


@dataclass(frozen=True)
class RowPairs:
    """Pairs of latents i < j, each once: at the first place of i in whose row j is active, too; sorted by place."""

    codes: SparseCodes
    """Sorted by row, then latent."""
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

    def dots(self, W_EM: Tensor) -> Tensor:
        """<W[i], W[j]> of every pair. Returns: [pairs]."""
        return backend_of(W_EM).pair_dots(W_EM, self.codes.indices_P, self.offsets, self.partners)

    def add_sums(self, W_EM: Tensor, weights: Tensor, out_EM: Tensor) -> None:
        """Add weight * W[j] to out[i] and weight * W[i] to out[j], for every pair."""
        codes = self.codes
        places = (codes.indices_P, codes.offsets, self.offsets, self.partners)
        backend_of(W_EM).add_pair_sums(W_EM, *places, weights, out_EM)


def pairs_together(codes: SparseCodes, room_E: Tensor, least_E: Tensor, first: int, stop: int) -> RowPairs:
    """Pairs of a latent from `first` to stop - 1 and a larger one, active together at least min(least_E) times.

    room_E: what `partner_offsets` gives.
    """
    entries = (codes.indices_P, codes.rows_P, codes.offsets, codes.by_latent)
    return RowPairs(codes, *backend_of(codes.values_P).pairs_together(*entries, room_E, least_E, first, stop))


def occurrences(codes: SparseCodes, first: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every time that a latent from `first` to stop - 1 is active together with a larger one, sorted by these latents.

    Returns: the places of both, those of a pair of latents together and by rising row; how many each pair has.
    """
    return reference.occurrences(codes.indices_P, codes.offsets, codes.by_latent, first, stop)


def partner_offsets(codes: SparseCodes) -> Tensor:
    """How many times latents below each one were active together with a larger latent. Returns: [E + 1]."""
    order_P, rows_P, starts = codes.by_latent
    larger_P = codes.offsets[rows_P + 1] - order_P - 1
    return torch.nn.functional.pad(larger_P.cumsum(0), (1, 0))[starts]
