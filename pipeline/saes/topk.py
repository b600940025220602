"""TopK: the k largest pre-activations of each row are on."""

from typing import Literal

from pydantic import model_validator
from torch import Tensor

from pipeline.kernels.codes import Codes
from pipeline.kernels.selection import row_topk
from pipeline.saes.base import SAE, SAESettings, check_k, k_at
from pipeline.schedules import Schedule


class TopK(SAE):
    """Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders."""

    class Config(SAESettings):
        """Knobs of the TopK SAE."""

        architecture: Literal["topk"] = "topk"
        """Name in ARCHITECTURES."""
        k: int | Schedule
        """Latents on per row (count)."""

        @model_validator(mode="after")
        def _k_fits(self) -> "TopK.Config":
            check_k(self.k, self.d_sae)
            return self

    settings: Config

    def select(self, pre_BE: Tensor, progress: float) -> Codes:
        """The k largest of each row."""
        return row_topk(pre_BE, k_at(self.settings.k, progress))

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """The final k largest of each row."""
        return row_topk(pre_BE, k_at(self.settings.k, 1.0))

    def target_l0(self, progress: float) -> float:
        """The schedule of k at `progress`."""
        return float(k_at(self.settings.k, progress))
