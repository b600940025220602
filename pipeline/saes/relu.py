"""ReLU: every latent with a positive pre-activation is active; the sparsity term decides how many they are."""

from typing import ClassVar, Literal

from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.kernels.selection import above
from strata_sae.pipeline.saes.base import SAE, Encoding, SAESettings


class ReLU(SAE):
    """Source: Bricken et al. 2023, Towards Monosemanticity."""

    class Settings(SAESettings):
        """Settings of the ReLU SAE."""

        architecture: Literal["relu"] = "relu"
        """The kind of SAE, which decides what other keys there are."""
        tied: bool = False
        """Whether W_enc is W_dec: one matrix that gets both gradients (seed 000)."""

    settings: Settings
    learns_l0: ClassVar[bool] = True

    def __init__(self, settings: SAESettings, d_out: int, weights: dict[str, Tensor], d_in: int | None = None):
        super().__init__(settings, d_out, weights, d_in)
        if self.settings.tied:
            self.W_enc = self.W_dec

    @classmethod
    def shapes(cls, settings: SAESettings, d_out: int, d_in: int | None = None) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, by checkpoint key."""
        assert isinstance(settings, cls.Settings)
        shapes = super().shapes(settings, d_out, d_in)
        return {name: shape for name, shape in shapes.items() if not (settings.tied and name == "W_enc")}

    def weights(self) -> dict[str, Tensor]:
        """Tied or not, both matrices."""
        return {**self.parameters(), "W_enc": self.W_enc.clone()} if self.settings.tied else self.parameters()

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """Every positive pre-activation."""
        return above(pre_BE, 0.0, self.break_even_density)

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """Every positive pre-activation."""
        return above(pre_BE, 0.0, self.break_even_density)

    def backward(
        self, encoding: Encoding, values_gradient: Tensor | None, penalty_gradient: Tensor | None
    ) -> dict[str, Tensor]:
        """Both gradients act on the pre-activations of active latents."""
        gradients = super().backward(encoding, values_gradient, penalty_gradient)
        if self.settings.tied and gradients:  # one matrix, named W_dec, gets both gradients
            gradients["W_dec"] = gradients.pop("W_enc")
        return gradients
