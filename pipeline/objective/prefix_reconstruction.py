"""Matryoshka: every prefix of the latents has to reconstruct on its own, so that early latents stay general."""

from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from strata_sae.pipeline.objective.squared_error import Reduction, error_divisor
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import value_at


class PrefixReconstruction(Term):
    """weight * mean (or sum) over the prefixes of the squared error of the reconstruction by that prefix.

    Source: Bussmann et al. 2025, Learning Multi-Level Features with Matryoshka SAEs; the mean over prefixes instead
    of their sum keeps the loss comparable with `reconstruction`.
    """

    class Settings(TermSettings):
        """Settings of the prefix reconstruction term."""

        term: Literal["prefix_reconstruction"] = "prefix_reconstruction"
        """Name in TERMS."""
        fractions: list[float] | None = Field(default_factory=lambda: [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0])
        """Ends of the prefixes as shares of d_sae, rising, the last 1. null: `ends` has them."""
        ends: list[int] | None = None
        """Ends of the prefixes in latents, rising, the last d_sae; needs `fractions: null` (HypotheSAEs)."""
        smallest: int = Field(default=0, ge=0)
        """Prefixes that `fractions` makes shorter become this long, and of equal ones one stays; seed 0: 8 latents."""
        levels: Literal["mean", "sum"] = "mean"
        """Over the prefixes: `mean` (seed 0, HypotheSAEs), or `sum` (the paper, SAELens)."""
        reduction: Reduction = "sum"
        """Of each prefix's error: `sum` over dimensions, `mean` (seed 0), or `fvu` (HypotheSAEs)."""
        compat: Literal["dictionary_learning"] | None = None
        """`dictionary_learning`: averaged twice, so that n prefixes weigh 1 / n^2 each, and aux_k beside them n times
        as much."""

        @field_validator("fractions")
        @classmethod
        def _rising_to_one(cls, fractions: list[float] | None) -> list[float] | None:
            if fractions is not None and (not _rising(fractions) or fractions[-1:] != [1.0]):
                raise ValueError(f"fractions must rise from above 0 to exactly 1, got {fractions}")
            return fractions

        @model_validator(mode="after")
        def _one_way_to_say_it(self) -> "PrefixReconstruction.Settings":
            if (self.fractions is None) == (self.ends is None):
                raise ValueError(
                    f"give the prefixes either as fractions or as ends, got fractions {self.fractions} and ends "
                    f"{self.ends}; set one of them to null"
                )
            if self.compat is not None and self.levels != "mean":
                raise ValueError(
                    f"compat {self.compat!r} averages over the prefixes, got levels {self.levels!r}; use mean"
                )
            return self

    settings: Settings
    reconstructs = True

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Every prefix needs at least one latent more than the one before, and the last one all of them."""
        assert isinstance(settings, cls.Settings)
        ends = prefix_ends(settings, sae_settings.d_sae)
        given = "ends" if settings.fractions is None else f"fractions {settings.fractions}"
        given += f" (smallest {settings.smallest})" if settings.smallest else ""
        if not _rising(ends):
            raise ValueError(
                f"term 'prefix_reconstruction': {given} of d_sae {sae_settings.d_sae} give prefixes of {ends} latents, "
                "of which two are equal or one is empty; use fewer, or a larger d_sae"
            )
        if ends[-1] != sae_settings.d_sae:
            raise ValueError(
                f"term 'prefix_reconstruction': {given} give prefixes of {ends} latents, but the last must hold all "
                f"{sae_settings.d_sae} (d_sae)"
            )

    def add(self, step: Step) -> Tensor:
        """The errors of all prefixes, and the gradients of the blocks of latents between their ends."""
        ends = prefix_ends(self.settings, step.sae.d_sae)
        bounds = list(zip([0, *ends], ends, strict=False))
        blocks = [step.codes.columns(start, stop) for start, stop in bounds]
        W_dec = step.sae.W_dec
        share = self._divisor(len(ends)) * error_divisor(self.settings.reduction, step.target_BM)
        weight = value_at(self.settings.weight, step.fraction_done) / share

        error_BM = step.sae.b_dec - step.target_BM
        errors = []
        for (codes, _), (start, stop) in zip(blocks, bounds, strict=True):
            error_BM = codes.decode(W_dec[start:stop]).add_(error_BM)
            errors.append(error_BM)
        loss = weight * torch.stack([torch.linalg.vector_norm(error_BM).square() for error_BM in errors]).sum()
        # A latent of block l is in the prefixes l and later: its gradient is the sum of theirs.
        lefts = [errors.pop().mul_(2 * weight)]
        while errors:
            lefts.insert(0, errors.pop().mul_(2 * weight).add_(lefts[0]))

        values_gradient = torch.empty_like(step.codes.values)
        space = step.encoding.space_for("W_dec by prefixes", W_dec)
        W_dec_gradient = torch.empty_like(W_dec) if space is None else space
        for (codes, places), (start, stop), left_BM in zip(blocks, bounds, lefts, strict=True):
            values_gradient[places] = codes.dots(left_BM, W_dec[start:stop])
            codes.transposed_times(left_BM, out=W_dec_gradient[start:stop])
        step.add_values_gradient(values_gradient)
        step.add_gradient("W_dec", W_dec_gradient)
        step.add_gradient("b_dec", lefts[0].sum(0))
        return loss

    def _divisor(self, n_prefixes: int) -> int:
        if self.settings.compat == "dictionary_learning":
            return n_prefixes**2
        return n_prefixes if self.settings.levels == "mean" else 1


def prefix_ends(settings: PrefixReconstruction.Settings, d_sae: int) -> list[int]:
    """The prefix lengths in latents."""
    if settings.fractions is None:
        return list(settings.ends or [])
    ends = [round(fraction * d_sae) for fraction in settings.fractions]
    longer = [end for end in ends if end > settings.smallest]
    return ends if len(longer) == len(ends) else [settings.smallest, *longer]


def _rising(numbers: list[int] | list[float]) -> bool:
    """Whether each is larger than the one before, the first larger than 0, and there is one."""
    return bool(numbers) and all(before < after for before, after in zip([0, *numbers], numbers, strict=False))
