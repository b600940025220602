"""JumpReLU: every latent above a threshold of its own is active; a narrow kernel gives thresholds a gradient."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes
from strata_sae.pipeline.kernels.selection import above
from strata_sae.pipeline.saes.base import SAE, Encoding, SAESettings, Workspace
from strata_sae.pipeline.sharding.ranks import ONE, Ranks


@dataclass(frozen=True)
class JumpReLUEncoding(Encoding):
    """A batch encoded; its codes also hold, with value 0, entries just below their threshold."""

    near: Tensor
    """Pre-activations in the layout of codes.values: all that are more than threshold - bandwidth / 2."""


class JumpReLU(SAE):
    """A latent is active, and its value its pre-activation, where that is above its threshold.

    The threshold's gradient is an estimate: the jump is treated as a slope as wide as the bandwidth (rectangle kernel).
    Source: Rajamanoharan et al. 2024, Jumping Ahead; dictionary_learning's JumpReluTrainer, which trains thresholds as
    they are (the paper trains their logarithm).
    """

    class Settings(SAESettings):
        """Settings of the JumpReLU SAE."""

        architecture: Literal["jump_relu"] = "jump_relu"
        """The kind of SAE, which decides what other keys there are."""
        pre_bias: bool = False
        """Whether the encoder sees x - b_dec instead of x. Default: dictionary_learning."""
        initial_threshold: float = Field(default=0.001, ge=0.0)
        """Every threshold at the start, in units of pre-activations. Default: dictionary_learning."""
        bandwidth: float = Field(default=0.001, gt=0.0)
        """Width of the kernel, in units of pre-activations. Default: dictionary_learning."""
        ste_to_input: bool = False
        """Whether the kernel's gradient moves the encoder, too. true: Anthropic, January 2025; false: DeepMind."""
        compat: Literal["dictionary_learning"] | None = None
        """`dictionary_learning`: the l0 term's kernel sees codes, not pre-activations (its issue 55). null: correct."""

        @model_validator(mode="after")
        def _compat_has_no_ste_to_input(self) -> "JumpReLU.Settings":
            if self.compat and self.ste_to_input:
                raise ValueError(f"compat: {self.compat} has no ste_to_input; drop one of the two")
            return self

    settings: Settings
    learns_l0: ClassVar[bool] = True
    threshold: Tensor  # [E]

    @classmethod
    def shapes(cls, settings: SAESettings, d_out: int, d_in: int | None = None) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, by checkpoint key."""
        return {**super().shapes(settings, d_out, d_in), "threshold": (settings.d_sae,)}

    @classmethod
    def initial_weights(
        cls, settings: SAESettings, d_out: int, generator: torch.Generator, d_in: int | None = None, ranks: Ranks = ONE
    ) -> dict[str, Tensor]:
        """Those that all SAEs start with, and equal thresholds."""
        assert isinstance(settings, cls.Settings)
        weights = super().initial_weights(settings, d_out, generator, d_in, ranks)
        return weights | {"threshold": torch.full_like(weights["b_enc"], settings.initial_threshold)}

    def encode(
        self, x_BM: Tensor, *, fraction_done: float = 1.0, workspace: Workspace | None = None
    ) -> JumpReLUEncoding:
        """The codes, and the pre-activations that the kernel may see."""
        x0_BM, pre_BE = self._product(x_BM, workspace)
        # Entries within half a bandwidth below the threshold are kept with value 0: the kernel gives them a gradient.
        near = above(pre_BE, self.threshold - self.settings.bandwidth / 2, self.break_even_density)
        near_pre = pre_BE if isinstance(near, DenseCodes) else near.values
        codes = near.with_values(near_pre * (near_pre > near.spread_latents(self.threshold)))
        return JumpReLUEncoding(codes, pre_BE, x0_BM, near_pre)

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """Every pre-activation above its threshold."""
        return above(pre_BE, self.threshold, self.break_even_density)

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """Every pre-activation above its threshold."""
        return above(pre_BE, self.threshold, self.break_even_density)

    def constrain(self) -> None:
        """Thresholds of at least 0: below, latents with negative pre-activations would be active."""
        self.threshold.clamp_(min=0)

    def backward(
        self, encoding: Encoding, values_gradient: Tensor | None, penalty_gradient: Tensor | None
    ) -> dict[str, Tensor]:
        """Active values give the encoder its gradient; values within the kernel give it to the threshold."""
        assert isinstance(encoding, JumpReLUEncoding)
        parts = [part for part in (values_gradient, penalty_gradient) if part is not None]
        if not parts:
            return {}
        gradient, codes = sum(parts[1:], start=parts[0]), encoding.codes
        threshold = codes.spread_latents(self.threshold)
        jump = gradient * self._kernel(encoding) * threshold
        pre_gradient = gradient * (encoding.near > threshold)
        if self.settings.ste_to_input:
            pre_gradient = pre_gradient + jump
        return {**self._encoder_gradients(encoding, pre_gradient), "threshold": -codes.latent_sums(jump)}

    def count_gradients(self, encoding: Encoding, gradient_B: Tensor) -> dict[str, Tensor]:
        """Gradients of the parameters, without b_dec, from dloss/d(active latents of a row), [B]."""
        assert isinstance(encoding, JumpReLUEncoding)
        codes = encoding.codes
        steps = self._kernel(encoding) * codes.spread_rows(gradient_B)
        if self.settings.compat == "dictionary_learning":
            return {"threshold": self._gradient_of_codes(encoding, steps, gradient_B)}
        encoder = self._encoder_gradients(encoding, steps) if self.settings.ste_to_input else {}
        return {**encoder, "threshold": -codes.latent_sums(steps)}

    def _kernel(self, encoding: JumpReLUEncoding) -> Tensor:
        """The rectangle: 1 / bandwidth within half a bandwidth of the threshold, else 0; layout of codes.values."""
        distance = (encoding.near - encoding.codes.spread_latents(self.threshold)).abs()
        return (distance < self.settings.bandwidth / 2).to(encoding.near.dtype) / self.settings.bandwidth

    def _encoder_gradients(self, encoding: Encoding, pre_gradient: Tensor) -> dict[str, Tensor]:
        codes = encoding.codes
        return {"W_enc": codes.transposed_times(encoding.x0_BM, pre_gradient), "b_enc": codes.latent_sums(pre_gradient)}

    def _gradient_of_codes(self, encoding: JumpReLUEncoding, steps: Tensor, gradient_B: Tensor) -> Tensor:
        """The threshold's gradient where the kernel sees codes, not pre-activations.

        The kernel's lower half is then empty, and every latent that is not active lies at 0, which is within the
        kernel of all thresholds below half a bandwidth.
        """
        codes, bandwidth = encoding.codes, self.settings.bandwidth
        active = codes.values > 0
        rest_E = gradient_B.sum() - codes.latent_sums(codes.spread_rows(gradient_B) * active)
        return -codes.latent_sums(steps * active) - rest_E * (self.threshold < bandwidth / 2) / bandwidth
