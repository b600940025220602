"""Penalties of the codes' sizes, L1 and Lp, which make them sparse where nothing else does."""

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.objective.term import Step, Term, TermSettings, needs_codes_from_zero, needs_learnt_l0
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import Schedule, Value, value_at

Form = Literal["lp_p", "lp"]


class L1(Term):
    """weight * mean over rows of the sum of the codes; warm it up with a schedule of the weight.

    For decoder rows of norm 1. Free rows can grow while codes shrink: that lowers this penalty, but not
    `l1_decoder_norm`.
    """

    class Settings(TermSettings):
        """Settings of the L1 term."""

        term: Literal["l1"] = "l1"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; 0.01 to 0.1 is usual where E||x||^2 = 1 (dictionary_learning)."""

    sums_over_latents = True

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where the number of active latents is learnt: elsewhere k already fixes it."""
        needs_learnt_l0(settings, sae_settings)

    def add(self, step: Step) -> Tensor:
        """The penalty; its derivative by every active value is weight / B."""
        weight = value_at(self.settings.weight, step.fraction_done) / step.target_BM.shape[0]
        step.add_penalty_gradient(torch.full_like(step.encoding.penalised, weight))
        return weight * step.encoding.penalised.sum()


class L1DecoderNorm(Term):
    """weight * mean over rows of the sum of code times norm of its decoder row, which no rescaling can lower.

    Source: Anthropic, Circuits Updates April 2024, "Update on how we train SAEs".
    """

    class Settings(TermSettings):
        """Settings of the L1 term weighted by decoder norms."""

        term: Literal["l1_decoder_norm"] = "l1_decoder_norm"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; the source warms it up over the first 5% of the run."""
        per_site: bool = False
        """Crosscoders: the sum of the norms of a row's parts at each site, not the norm of the whole row, so that codes
        are sparse by site, too. Source: Lindsey et al. 2024, Sparse Crosscoders."""

    settings: Settings
    sums_over_latents = True

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only with free decoder rows, and where the number of active latents is learnt."""
        needs_learnt_l0(settings, sae_settings)
        if sae_settings.decoder != "free":
            raise ValueError(
                f"term {settings.term!r} weighs codes by the norms of the decoder rows, which decoder "
                f"{sae_settings.decoder!r} holds at 1; set sae.decoder to 'free', or use the term 'l1'"
            )

    def add(self, step: Step) -> Tensor:
        """The penalty; it moves the norms of W_dec's rows as well as the codes."""
        weight = value_at(self.settings.weight, step.fraction_done) / step.target_BM.shape[0]
        codes, W_dec = step.codes, step.sae.W_dec
        blocks = W_dec.split(step.sae.blocks if self.settings.per_site else W_dec.shape[1], dim=1)
        norms = [torch.linalg.vector_norm(block_EM, dim=1) for block_EM in blocks]
        norms_E = torch.stack(norms).sum(0)
        step.add_penalty_gradient(codes.spread_latents(norms_E * weight).expand_as(codes.values))
        sums_E = codes.latent_sums(step.encoding.penalised)
        tiny = torch.finfo(norms_E.dtype).tiny  # a row of zeros has no direction: its gradient is 0, not NaN
        pulls = [
            (weight * sums_E / own_E.clamp(min=tiny))[:, None] * block_EM
            for own_E, block_EM in zip(norms, blocks, strict=True)
        ]
        step.add_gradient("W_dec", torch.cat(pulls, dim=1))
        return weight * torch.dot(sums_E, norms_E)


class Lp(Term):
    """weight * mean over rows of sum over latents of (code + epsilon)^p (`lp_p`), or of that sum's p-th root (`lp`).

    Source: seed 0 (sae_dict_learning_experiments), p_annealing: p falls linearly, the weight stays.
    """

    class Settings(TermSettings):
        """Settings of the Lp term."""

        term: Literal["lp"] = "lp"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss."""
        form: Form = "lp_p"
        """`lp_p`: the sum of the powers; `lp`: its p-th root."""
        p: Value = Schedule(start=1.0, end=0.5, begin=0.2, finish=0.8)
        """Exponent; 1 is the L1 penalty. Default: seed 0's, a step late, since its steps count from 1: with begin and
        finish 1 / n_steps earlier it is its to the step."""
        epsilon: float = Field(default=1e-6, ge=0.0)
        """Added to every code: with p < 1 the derivative at a code near 0 is then at most p * epsilon^(p - 1)."""

        @field_validator("p")
        @classmethod
        def _stays_above_zero(cls, p: Value) -> Value:
            return above_zero("p", p)

    settings: Settings
    sums_over_latents = True

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where the number of active latents is learnt, and codes rise from 0."""
        needs_codes_from_zero(settings, sae_settings)

    def add(self, step: Step) -> Tensor:
        """The penalty, and its derivative by every active value."""
        weight = value_at(self.settings.weight, step.fraction_done) / step.target_BM.shape[0]
        p = value_at(self.settings.p, step.fraction_done)
        total, derivative = lp(step.codes, step.encoding.penalised, p, self.settings.epsilon, self.settings.form)
        step.add_penalty_gradient(derivative * weight)
        step.monitors["lp/p"] = p
        return weight * total


def lp(codes: Codes, values: Tensor, p: float, epsilon: float, form: Form) -> tuple[Tensor, Tensor]:
    """The penalty summed over rows, 0-dim, and its derivative in the layout of codes.values (0 where a value is 0).

    A latent that is not active counts epsilon^p, as in the source: a constant of p.
    """
    if form == "lp_p":
        return weighted_lp_p(codes, values, p, epsilon, None)
    at_zero = epsilon**p
    excess = codes.with_values((values + epsilon).pow(p) - at_zero)
    sums_B = excess.decode(values.new_ones(codes.n_latents, 1)).squeeze(1) + at_zero * codes.n_latents
    derivative = codes.spread_rows(sums_B.pow(1 / p - 1)) * (values + epsilon).pow(p - 1)
    return sums_B.pow(1 / p).sum(), torch.where(values > 0, derivative, 0.0)


def weighted_lp_p(
    codes: Codes, values: Tensor, p: float, epsilon: float, weights_E: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sum over rows and latents of weight * (value + epsilon)^p, 0-dim, and its derivative as in `lp`."""
    at_zero = epsilon**p
    # Codes hold few of the B * E values; what the others add is a constant, added at the end.
    excess = (values + epsilon).pow(p) - at_zero
    derivative = torch.where(values > 0, (values + epsilon).pow(p - 1) * p, 0.0)
    if weights_E is None:
        return excess.sum() + at_zero * codes.n_latents * codes.batch_size, derivative
    weights = codes.spread_latents(weights_E)
    return (excess * weights).sum() + at_zero * codes.batch_size * weights_E.sum(), derivative * weights


def above_zero(name: str, value: Value) -> Value:
    """The value, unless it is 0 or less somewhere. Raises: ValueError."""
    smallest = min(value.start, value.end) if isinstance(value, Schedule) else value
    if smallest <= 0:
        raise ValueError(f"{name} must stay above 0, got {smallest}; let it end at a small number, such as 0.2")
    return value
