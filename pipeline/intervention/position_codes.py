"""The codes of a forward pass, by sequence and position."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.intervention.edits import latent_values
from strata_sae.pipeline.kernels.codes import Codes


class CodeEntries(NamedTuple):
    """The P active latents of a forward pass, [P] each, in the order of sequences and positions."""

    sequence_P: Tensor
    position_P: Tensor
    latent_P: Tensor
    value_P: Tensor


@dataclass(frozen=True)
class PositionCodes:
    """The codes of B sequences of S positions."""

    flat: Codes
    """Of B S rows: position s of sequence b is row b S + s. Of few active latents, entries; of many, a matrix."""
    shape: tuple[int, int, int]
    """(B, S, d_sae)."""

    def to_dense(self) -> Tensor:
        """The full tensor: float32 [B, S, d_sae]."""
        return self.flat.to_dense().reshape(self.shape)

    def of(self, latents: list[int] | Tensor) -> Tensor:
        """The codes of some latents, each named once: float32 [B, S, L]. Raises: IndexError for a latent out of range.

        No tensor of all latents is made.
        """
        latents_L = torch.as_tensor(latents, device=self.flat.values.device).long()
        if bool(((latents_L < 0) | (latents_L >= self.shape[2])).any()):
            raise IndexError(f"latents {latents_L.tolist()}: this SAE has the latents 0 to {self.shape[2] - 1}")
        return latent_values(self.flat, latents_L).reshape(*self.shape[:2], len(latents_L))

    def entries(self) -> CodeEntries:
        """Every code other than 0, with its place."""
        sparse = self.flat.to_sparse()
        active_P = (sparse.values_P != 0).nonzero().squeeze(1)
        rows_P = sparse.rows_P[active_P].long()
        S = self.shape[1]
        return CodeEntries(rows_P // S, rows_P % S, sparse.indices_P[active_P].long(), sparse.values_P[active_P])
