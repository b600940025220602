"""Matryoshka: every prefix of the latents has to reconstruct on its own, so that early latents stay general."""

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from pipeline.objective.term import Step, Term, TermSettings
from pipeline.saes.base import SAESettings
from pipeline.schedules import value_at


class PrefixReconstruction(Term):
    """weight * mean over the prefixes of the squared error of the reconstruction by that prefix.

    Source: Bussmann et al. 2025, Learning Multi-Level Features with Matryoshka SAEs; the mean over prefixes instead
    of their sum keeps the loss comparable with `reconstruction`.
    """

    class Config(TermSettings):
        """Knobs of the prefix reconstruction term."""

        term: Literal["prefix_reconstruction"] = "prefix_reconstruction"
        """Name in TERMS."""
        fractions: list[float] = Field(default_factory=lambda: [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0])
        """Ends of the prefixes as shares of d_sae, rising, the last 1."""

        @field_validator("fractions")
        @classmethod
        def _rising_to_one(cls, fractions: list[float]) -> list[float]:
            rising = all(before < after for before, after in zip([0.0, *fractions], fractions, strict=False))
            if not rising or not fractions or fractions[-1] != 1.0:
                raise ValueError(f"fractions must rise from above 0 to exactly 1, got {fractions}")
            return fractions

    settings: Config
    reconstructs = True

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Every prefix needs at least one latent more than the one before."""
        assert isinstance(settings, cls.Config)
        ends = prefix_ends(settings.fractions, sae_settings.d_sae)
        if any(start >= stop for start, stop in zip([0, *ends], ends, strict=False)):
            raise ValueError(
                f"fractions {settings.fractions} of d_sae {sae_settings.d_sae} give prefixes of {ends} latents, "
                "of which two are equal or one is empty; use fewer fractions or a larger d_sae"
            )

    def add(self, step: Step) -> Tensor:
        """The errors of all prefixes, and the gradients of the blocks of latents between their ends."""
        ends = prefix_ends(self.settings.fractions, step.sae.d_sae)
        bounds = list(zip([0, *ends], ends, strict=False))
        blocks = [step.codes.columns(start, stop) for start, stop in bounds]
        W_dec = step.sae.W_dec
        weight = value_at(self.settings.weight, step.progress) / (len(ends) * step.x_BM.shape[0])

        parts = [codes.decode(W_dec[start:stop]) for (codes, _), (start, stop) in zip(blocks, bounds, strict=True)]
        errors_LBM = torch.stack(parts).cumsum(0).add_(step.sae.b_dec).sub_(step.x_BM)
        loss = weight * errors_LBM.square().sum()
        # A latent of block l is in the prefixes l and later: its gradient is the sum of theirs.
        left_LBM = errors_LBM.mul_(2 * weight).flip(0).cumsum(0).flip(0)

        values_gradient = torch.empty_like(step.codes.values)
        W_dec_gradient = torch.empty_like(W_dec)
        for (codes, places), (start, stop), left_BM in zip(blocks, bounds, left_LBM, strict=True):
            values_gradient[places] = codes.dots(left_BM, W_dec[start:stop])
            W_dec_gradient[start:stop] = codes.transposed_times(left_BM)
        step.add_values_gradient(values_gradient)
        step.add_gradient("W_dec", W_dec_gradient)
        step.add_gradient("b_dec", left_LBM[0].sum(0))
        return loss


def prefix_ends(fractions: list[float], d_sae: int) -> list[int]:
    """The prefix lengths in latents."""
    return [round(fraction * d_sae) for fraction in fractions]
