"""Identity: every row is its own code. No SAE can score better."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.kernels.codes import Codes, DenseCodes
from strata_sae.pipeline.saes.base import SAE, Encoding, SAESettings, Workspace
from strata_sae.pipeline.sharding.ranks import ONE, Ranks


class Identity(SAE):
    """codes = xhat = x, exactly. Source: dictionary_learning's IdentityDict.

    It has the parameters that every trainer and checkpoint expects. No output depends on them: their gradients are 0.
    """

    class Settings(SAESettings):
        """Settings of the identity."""

        architecture: Literal["identity"] = "identity"
        """The kind of SAE, which decides what other keys there are."""
        decoder: Literal["free"] = "free"
        """Rows of W_dec: those of the identity matrix."""

    learns: ClassVar[bool] = False

    @classmethod
    def shapes(cls, settings: SAESettings, d_out: int, d_in: int | None = None) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, by checkpoint key. Raises: ConfigError unless d_sae is the rows' width."""
        if settings.d_sae != d_out:
            raise ConfigError(
                f"sae.d_sae: {settings.d_sae}, but the identity has as many latents as its rows are wide: {d_out}"
            )
        return super().shapes(settings, d_out, d_in)

    @classmethod
    def initial_weights(
        cls, settings: SAESettings, d_out: int, generator: torch.Generator, d_in: int | None = None, ranks: Ranks = ONE
    ) -> dict[str, Tensor]:
        """Identity matrices and zeros."""
        shapes = cls.shapes(settings, d_out, d_in).items()
        return {name: torch.eye(d_out) if len(shape) == 2 else torch.zeros(shape) for name, shape in shapes}

    def encode(self, x_BM: Tensor, *, fraction_done: float = 1.0, workspace: Workspace | None = None) -> Encoding:
        """The rows."""
        return Encoding(DenseCodes(x_BM), x_BM, x_BM)

    def encode_inference(self, x_BM: Tensor, *, workspace: Workspace | None = None) -> Codes:
        """The rows."""
        return DenseCodes(x_BM)

    def decode(self, codes: Codes) -> Tensor:
        """The rows."""
        return codes.to_dense()

    def weights(self) -> dict[str, Tensor]:
        """Identity matrices and zeros, which give readers the same codes; training starts b_dec elsewhere."""
        return {
            name: tensor.to(self.W_dec)
            for name, tensor in self.initial_weights(self.settings, self.d_out, torch.Generator()).items()
        }
