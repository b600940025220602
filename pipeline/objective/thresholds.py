"""Terms that move the thresholds of a JumpReLU SAE: how many latents are active, and dead ones pulled up."""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.saes.jump_relu import JumpReLU
from strata_sae.pipeline.schedules import Value, value_at

TARGETED = ("target", "per_row")
"""Kinds of L0 that have a target."""


class L0(Term):
    """weight * a function of n, the number of active latents of a row.

    n has no gradient; the kernel of each threshold gives an estimate (saes/jump_relu.py).
    """

    class Settings(TermSettings):
        """Settings of the L0 term."""

        term: Literal["l0"] = "l0"
        """Name in TERMS."""
        kind: Literal["target", "penalty", "per_row", "tanh"] = "target"
        """`target`: (mean n / target - 1)^2 (dictionary_learning). `penalty`: mean n (the JumpReLU paper). `per_row`:
        mean of 2 / target * (n - target)^2 (Gemma Scope 2). `tanh`: tanh(scale * code * decoder norm) summed
        instead of n, so that codes get a gradient, too (Anthropic, January 2025)."""
        target: float = Field(default=20.0, gt=0.0)
        """Active latents per row (count), of `target` and `per_row`. Default: dictionary_learning."""
        scale: float = Field(default=4.0, gt=0.0)
        """Steepness of `tanh`. Default: Anthropic's."""

        @model_validator(mode="after")
        def _every_setting_has_an_effect(self) -> "L0.Settings":
            idle = {"target": self.kind not in TARGETED, "scale": self.kind != "tanh"}
            for name in idle:
                if idle[name] and getattr(self, name) != type(self).model_fields[name].default:  # a dump has them all
                    raise ValueError(f"{name} plays no part in kind {self.kind!r}; remove it")
            return self

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where thresholds are learnt, and only with a target that can be met."""
        if not isinstance(sae_settings, JumpReLU.Settings):
            raise ValueError(
                f"term {settings.term!r} moves learnt thresholds, which 'jump_relu' has and "
                f"{sae_settings.architecture!r} has not; change the architecture or remove the term"
            )
        assert isinstance(settings, cls.Settings)
        if settings.kind in TARGETED and settings.target > sae_settings.d_sae:
            raise ValueError(
                f"term 'l0': target ({settings.target:g}) must not exceed d_sae ({sae_settings.d_sae}), as no more "
                "latents can be active; lower it"
            )

    def add(self, step: Step) -> Tensor:
        """The penalty; thresholds get its gradient, and with `ste_to_input` the encoder."""
        weight = value_at(self.settings.weight, step.fraction_done)
        if self.settings.kind == "tanh":
            return self._tanh(step, weight / step.target_BM.shape[0])
        n_B = step.sae.ranks.sum(n_active_B(step.codes))
        loss, gradient_B = self._counted(n_B.to(step.target_BM.dtype))
        assert isinstance(step.sae, JumpReLU)
        for name, gradient in step.sae.count_gradients(step.encoding, gradient_B * weight).items():
            step.add_gradient(name, gradient)
        return weight * loss

    def _counted(self, n_B: Tensor) -> tuple[Tensor, Tensor]:
        """The loss for n_B active latents in each row, and its derivative by n_B."""
        target, share = self.settings.target, torch.full_like(n_B, 1 / len(n_B))
        if self.settings.kind == "penalty":
            return n_B.mean(), share
        if self.settings.kind == "per_row":
            excess_B = n_B - target
            return 2 / target * excess_B.square().mean(), share * excess_B * (4 / target)
        excess = n_B.mean() / target - 1
        return excess.square(), share * excess * (2 / target)

    def _tanh(self, step: Step, weight: float) -> Tensor:
        """The soft count; codes and decoder norms get its gradient."""
        codes, values, W_dec, scale = step.codes, step.encoding.penalised, step.sae.W_dec, self.settings.scale
        norm_E = torch.linalg.vector_norm(W_dec, dim=1)
        norm = codes.spread_latents(norm_E)
        counted = torch.tanh(scale * values * norm)
        slope = (1 - counted.square()) * (scale * weight)
        step.add_penalty_gradient(slope * norm)
        # d norm / d row is row / norm; a row of zeros has no direction, and gets 0 instead of NaN.
        pull_E = codes.latent_sums(slope * values) / norm_E.clamp(min=torch.finfo(norm_E.dtype).tiny)
        step.add_gradient("W_dec", pull_E[:, None] * W_dec)
        return weight * step.sae.ranks.sum(counted.sum())


def n_active_B(codes: Codes) -> Tensor:
    """Latents above 0 in each row: [B]."""
    active = codes.values > 0
    if isinstance(codes, DenseCodes):
        return active.sum(1)
    return torch.bincount(codes.rows_P[active], minlength=codes.batch_size)


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
        """The latents whose pre-activations count; `all` costs two dense products per step."""

    settings: Settings
    sums_over_latents = True

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where thresholds are learnt."""
        if not isinstance(sae_settings, JumpReLU.Settings):
            raise ValueError(
                f"term {settings.term!r} pulls towards learnt thresholds, which 'jump_relu' has and "
                f"{sae_settings.architecture!r} has not; remove it"
            )

    def add(self, step: Step) -> Tensor:
        """The penalty; encoder, threshold and decoder norm of the latents that count get its gradient."""
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
