"""ReLU: every latent with a positive pre-activation is on; how many is up to the objective's sparsity term."""

from typing import ClassVar, Literal

from torch import Tensor

from pipeline.kernels.codes import Codes
from pipeline.kernels.selection import above
from pipeline.saes.base import SAE, SAESettings


class ReLU(SAE):
    """Source: Bricken et al. 2023, Towards Monosemanticity."""

    class Config(SAESettings):
        """Knobs of the ReLU SAE."""

        architecture: Literal["relu"] = "relu"
        """Name in ARCHITECTURES."""

    learns_l0: ClassVar[bool] = True

    def select(self, pre_BE: Tensor, progress: float) -> Codes:
        """Every positive pre-activation."""
        return above(pre_BE, 0.0)

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """Every positive pre-activation."""
        return above(pre_BE, 0.0)
