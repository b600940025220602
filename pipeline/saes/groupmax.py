"""GroupMax: the latents lie in k equal groups, and the one with the largest pre-activation of each group is active."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, SparseCodes
from strata_sae.pipeline.saes.base import SAE, SAESettings


class GroupMax(SAE):
    """Cheaper than TopK, and every group has one active latent. Source: sparsify, activation `groupmax`."""

    class Settings(SAESettings):
        """Settings of the GroupMax SAE."""

        architecture: Literal["groupmax"] = "groupmax"
        """The kind of SAE, which decides what other keys there are."""
        k: int = Field(gt=0)
        """Active latents per row, and groups (count); d_sae is a multiple of it."""

        @model_validator(mode="after")
        def _groups_are_equal(self) -> "GroupMax.Settings":
            if self.d_sae % self.k:
                nearest = max(self.d_sae // self.k, 1) * self.k
                raise ValueError(f"d_sae ({self.d_sae}) must be a multiple of k ({self.k}); try d_sae {nearest}")
            return self

    settings: Settings
    has_runners_up: ClassVar[bool] = True

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """The largest of each group, negative ones as 0."""
        k = self.settings.k
        values_BK, places_BK = pre_BE.unflatten(1, (k, -1)).max(dim=2)
        latents_BK = places_BK + torch.arange(0, self.d_sae, self.d_sae // k, device=pre_BE.device)
        offsets = torch.arange(0, latents_BK.numel() + 1, k, device=pre_BE.device)
        return SparseCodes(values_BK.clamp_(min=0).reshape(-1), latents_BK.reshape(-1), offsets, self.d_sae)

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """The largest of each group, negative ones as 0."""
        return self.select(pre_BE, 1.0)

    def target_l0(self, fraction_done: float) -> float:
        """One of each group."""
        return float(self.settings.k)
