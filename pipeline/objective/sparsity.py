"""L1 penalties, which make the codes sparse where nothing else does."""

from typing import Literal

import torch
from torch import Tensor

from strata_sae.pipeline.objective.fits import needs_learnt_l0
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import Value, value_at


class L1(Term):
    """weight * mean over rows of the sum of the codes; warm it up with a schedule of the weight.

    For decoder rows of norm 1. Free ones grow, while codes shrink, to evade this penalty, but not `l1_decoder_norm`.
    """

    class Settings(TermSettings):
        """Settings of the L1 term."""

        term: Literal["l1"] = "l1"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; 0.01 to 0.1 is usual where E||x||^2 = 1 (dictionary_learning)."""

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where the number of latents on is learnt: elsewhere k already fixes it."""
        needs_learnt_l0(settings, sae_settings)

    def add(self, step: Step) -> Tensor:
        """The penalty, and weight / B for every value that is on."""
        weight = value_at(self.settings.weight, step.fraction_done) / step.target_BM.shape[0]
        step.add_penalty_gradient(torch.full_like(step.encoding.penalised, weight))
        return weight * step.encoding.penalised.sum()


class L1DecoderNorm(Term):
    """weight * mean over rows of the sum of code times norm of its decoder row: what cannot be evaded by rescaling.

    Source: Anthropic, Circuits Updates April 2024, "Update on how we train SAEs".
    """

    class Settings(TermSettings):
        """Settings of the L1 term weighted by decoder norms."""

        term: Literal["l1_decoder_norm"] = "l1_decoder_norm"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; the source warms it up over the first 5% of the run."""
        per_site: bool = False
        """Crosscoders: the sum of the norms of a row's parts at each site, not the norm of the whole. Sparse by site,
        too. Source: Lindsey et al. 2024, Sparse Crosscoders."""

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only with free decoder rows, and where the number of latents on is learnt."""
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
        tiny = torch.finfo(norms_E.dtype).tiny
        pulls = [
            (weight * sums_E / own_E.clamp(min=tiny))[:, None] * block_EM
            for own_E, block_EM in zip(norms, blocks, strict=True)
        ]
        step.add_gradient("W_dec", torch.cat(pulls, dim=1))
        return weight * torch.dot(sums_E, norms_E)
