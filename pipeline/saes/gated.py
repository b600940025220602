"""Gated: one product decides which latents are active; scaled and shifted per latent, it also gives their values."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, row_sum
from strata_sae.pipeline.kernels.selection import above
from strata_sae.pipeline.saes.base import SAE, Encoding, SAESettings, Workspace


@dataclass(frozen=True)
class GatedEncoding(Encoding):
    """A batch encoded; `pre_BE` are the gate's pre-activations."""

    gate: Tensor
    """The gate's pre-activations where they are positive, in the layout of codes.values (0 where that holds others)."""

    @property
    def penalised(self) -> Tensor:
        """The gate: sparsity terms close it and leave the magnitudes as they are."""
        return self.gate


class Gated(SAE):
    """With u = x0 W_enc^T: active where the gate u + b_gate is positive, with the value relu(exp(r_mag) u + b_mag).

    Only sparsity terms and `gated_auxiliary` move the gate. Source: Rajamanoharan et al. 2024, Improving Dictionary
    Learning with Gated Sparse Autoencoders; dictionary_learning's GatedSAETrainer.
    """

    class Settings(SAESettings):
        """Settings of the Gated SAE."""

        architecture: Literal["gated"] = "gated"
        """The kind of SAE, which decides what other keys there are."""

    learns_l0: ClassVar[bool] = True
    scales_with_x: ClassVar[tuple[str, ...]] = ("b_gate", "b_mag", "b_dec")

    r_mag: Tensor  # [E]
    b_gate: Tensor  # [E]
    b_mag: Tensor  # [E]

    @classmethod
    def shapes(cls, settings: SAESettings, d_out: int, d_in: int | None = None) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape, by checkpoint key: three vectors in the place of b_enc."""
        shapes = super().shapes(settings, d_out, d_in)
        latents = shapes.pop("b_enc")
        return {**shapes, "r_mag": latents, "b_gate": latents, "b_mag": latents}

    def encode(self, x_BM: Tensor, *, fraction_done: float = 1.0, workspace: Workspace | None = None) -> GatedEncoding:
        """The codes, and the gate behind them."""
        x0_BM, pre_BE = self._product(x_BM, workspace)
        gate = above(pre_BE, 0.0, self.break_even_density)
        return GatedEncoding(self._magnitudes(gate), pre_BE, x0_BM, gate.values)

    def select(self, pre_BE: Tensor, fraction_done: float) -> Codes:
        """Every latent with a positive gate, and its magnitude."""
        return self._magnitudes(above(pre_BE, 0.0, self.break_even_density))

    def select_inference(self, pre_BE: Tensor) -> Codes:
        """Every latent with a positive gate, and its magnitude."""
        return self._magnitudes(above(pre_BE, 0.0, self.break_even_density))

    def backward(
        self, encoding: Encoding, values_gradient: Tensor | None, penalty_gradient: Tensor | None
    ) -> dict[str, Tensor]:
        """Values give the magnitudes their gradient, penalties the gate; W_enc gets the sum of both."""
        assert isinstance(encoding, GatedEncoding)
        codes, zero = encoding.codes, torch.zeros_like(encoding.gate)
        mag_gradient = zero if values_gradient is None else values_gradient * (codes.values > 0)
        gate_gradient = zero if penalty_gradient is None else penalty_gradient * (encoding.gate > 0)
        # The gate's pre-activation is u + b_gate, so u, which both halves share, needs no second product.
        scale = codes.spread_latents(self.r_mag.exp())
        product = encoding.gate - codes.spread_latents(self.b_gate)
        return {
            "W_enc": codes.transposed_times(
                encoding.x0_BM, scale * mag_gradient + gate_gradient, out=encoding.space_for("W_enc", self.W_enc)
            ),
            "r_mag": codes.latent_sums(mag_gradient * scale * product),
            "b_mag": codes.latent_sums(mag_gradient),
            "b_gate": codes.latent_sums(gate_gradient),
        }

    def input_gradient(self, gradients: dict[str, Tensor]) -> Tensor:
        """dloss/dx0 summed over rows, [M], from the whole gradients of the two biases."""
        return row_sum(self.r_mag.exp() * gradients["b_mag"] + gradients["b_gate"], self.W_enc)

    def _encoder_product(self, x0_BM: Tensor, out: Tensor | None) -> Tensor:
        return torch.addmm(self.b_gate, x0_BM, self.W_enc.T, out=out)

    def _magnitudes(self, gate: Codes) -> Codes:
        """The codes, from the gate's pre-activations where it is open."""
        product = gate.values - gate.spread_latents(self.b_gate)
        magnitudes = (gate.spread_latents(self.r_mag.exp()) * product + gate.spread_latents(self.b_mag)).clamp_(min=0)
        return gate.with_values(magnitudes * (gate.values > 0))
