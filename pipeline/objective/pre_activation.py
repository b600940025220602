"""Pre-activation loss: dead latents of a JumpReLU SAE are pulled up to their thresholds."""

from typing import Literal

import torch
from torch import Tensor

from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.saes.jump_relu import JumpReLU
from strata_sae.pipeline.schedules import Value, value_at


class PreActivation(Term):
    """weight * mean over rows of the sum over latents of relu(threshold - pre-activation) * decoder norm.

    Source: Anthropic, Circuits Updates January 2025 (all latents); SAELens (dead latents).
    """

    class Settings(TermSettings):
        """Settings of the pre-activation term."""

        term: Literal["pre_activation"] = "pre_activation"
        """Name in TERMS."""
        weight: Value = 3e-6
        """Factor of this term in the loss. Default: Anthropic's."""
        latents: Literal["dead", "all"] = "dead"
        """Whose pre-activations count; `all` costs two dense products per step."""

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where thresholds are learnt."""
        if not isinstance(sae_settings, JumpReLU.Settings):
            raise ValueError(
                f"term {settings.term!r} pulls towards learnt thresholds, which 'jump_relu' has and "
                f"{sae_settings.architecture!r} has not; remove it"
            )

    def add(self, step: Step) -> Tensor:
        """The penalty; it moves encoder, threshold and decoder norm of the latents that count."""
        dead_E = torch.ones_like(step.sae.b_enc, dtype=torch.bool) if self.settings.latents == "all" else step.dead_E
        if dead_E is None or not bool(dead_E.any()):
            return step.target_BM.new_zeros(())
        assert isinstance(step.sae, JumpReLU)
        latents = dead_E.nonzero().squeeze(1)
        W_dead = step.sae.W_dec[latents]
        norm_E = torch.linalg.vector_norm(W_dead, dim=1)
        gap_BE = (step.sae.threshold[latents] - step.encoding.pre_BE[:, latents]).clamp_(min=0)
        weight = value_at(self.settings.weight, step.fraction_done) / step.target_BM.shape[0]
        pull_BE = (gap_BE > 0) * (norm_E * weight)
        pull_E, gap_E = pull_BE.sum(0), gap_BE.sum(0) * weight
        step.add_gradient("W_enc", -pull_BE.T @ step.encoding.x0_BM, rows=latents)
        step.add_gradient("b_enc", -pull_E, rows=latents)
        step.add_gradient("threshold", pull_E, rows=latents)
        inverse_E = 1 / norm_E.clamp(min=torch.finfo(norm_E.dtype).tiny)
        step.add_gradient("W_dec", (gap_E * inverse_E)[:, None] * W_dead, rows=latents)
        return torch.dot(gap_E, norm_E)
