"""Terms that ask parts of the codes to reconstruct by themselves: prefixes of latents, and several numbers of them."""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes
from strata_sae.pipeline.kernels.selection import row_topk
from strata_sae.pipeline.objective.reconstruction import Reduction, error_divisor
from strata_sae.pipeline.objective.term import Step, Term, TermSettings, needs_runners_up
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import Schedule, value_at


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
        """Prefixes that would be shorter become this long, and of equal ones one is kept (latents); seed 0: 8."""
        levels: Literal["mean", "sum"] = "mean"
        """Over the prefixes: `mean` (seed 0, HypotheSAEs), or `sum` (the paper, SAELens)."""
        reduction: Reduction = "sum"
        """Of each prefix's error: `sum` over dimensions, `mean` (seed 0), or `fvu` (HypotheSAEs)."""
        compat: Literal["dictionary_learning"] | None = None
        """`dictionary_learning`: averaged twice: each of n prefixes weighs 1 / n^2, and aux_k, relative to them,
        n times as much."""

        @field_validator("fractions")
        @classmethod
        def _rising_to_one(cls, fractions: list[float] | None) -> list[float] | None:
            if fractions is not None and (not _rising(fractions) or fractions[-1:] != [1.0]):
                raise ValueError(f"fractions must rise from above 0 to exactly 1, got {fractions}")
            return fractions

        @model_validator(mode="after")
        def _prefixes_are_given_once(self) -> "PrefixReconstruction.Settings":
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

        # Each prefix's error is the one before plus its own block's reconstruction: every entry is decoded once.
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
    """The lengths of the prefixes (latents)."""
    if settings.fractions is None:
        return list(settings.ends or [])
    ends = [round(fraction * d_sae) for fraction in settings.fractions]
    longer = [end for end in ends if end > settings.smallest]
    return ends if len(longer) == len(ends) else [settings.smallest, *longer]


def _rising(numbers: list[int] | list[float]) -> bool:
    """Whether there are numbers, the first is above 0, and each is larger than the one before."""
    return bool(numbers) and all(before < after for before, after in zip([0, *numbers], numbers, strict=False))


class HierarchicalTopK(Term):
    """weight * mean over ks of the squared error of the reconstruction by each row's k largest latents.

    One trained SAE then serves every k of the list. Source: Balagansky et al. 2025, Train One Sparse Autoencoder Across
    Multiple Sparsity Budgets (arXiv 2505.24473).
    """

    class Settings(TermSettings):
        """Settings of the hierarchical TopK term."""

        term: Literal["hierarchical_topk"] = "hierarchical_topk"
        """Name in TERMS."""
        ks: list[int] = Field(min_length=1)
        """Active latents per row that must reconstruct (counts), rising; the last is the architecture's k."""
        reduction: Reduction = "sum"
        """Of each error: `sum` over dimensions, `mean`, or `fvu`: over the batch's variance."""

        @field_validator("ks")
        @classmethod
        def _rising(cls, ks: list[int]) -> list[int]:
            if any(before >= after for before, after in pairwise([0, *ks])):
                raise ValueError(f"ks must rise from at least 1, got {ks}")
            return ks

    settings: Settings
    reconstructs = True

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only topk with a constant k, the largest of ks: its rows hold exactly that many ranks."""
        assert isinstance(settings, cls.Settings)
        if sae_settings.architecture != "topk":
            raise ValueError(
                f"term 'hierarchical_topk' needs the architecture 'topk', got {sae_settings.architecture!r}; "
                "change the architecture or use the term 'reconstruction'"
            )
        k = getattr(sae_settings, "k", None)
        if k != settings.ks[-1]:
            raise ValueError(f"term 'hierarchical_topk': ks {settings.ks} must end with sae.k, a number, got k {k!r}")

    def add(self, step: Step) -> Tensor:
        """The errors at all ks, and the gradients of the ranks between them."""
        ks, batch_size, W_dec = self.settings.ks, step.codes.batch_size, step.sae.W_dec
        share = len(ks) * error_divisor(self.settings.reduction, step.target_BM)
        weight = value_at(self.settings.weight, step.fraction_done) / share

        values_BK, indices_BK, places_BK = by_rank(step.codes, ks[-1])
        bands = list(pairwise([0, *ks]))
        banded = _stack_bands(values_BK, indices_BK, bands, step.codes.n_latents)
        parts_LBM = banded.decode(W_dec).view(len(ks), batch_size, -1)
        errors_LBM = parts_LBM.cumsum(0).add_(step.sae.b_dec).sub_(step.target_BM)
        loss = weight * errors_LBM.square().sum()
        # A latent of band l is active for the ks l and later: its gradient is the sum of theirs.
        left_LBM = errors_LBM.mul_(2 * weight).flip(0).cumsum(0).flip(0)
        left_rows = left_LBM.flatten(0, 1)

        by_band = banded.dots(left_rows, W_dec).split([batch_size * (stop - start) for start, stop in bands])
        gradient_BK = torch.cat([part.view(batch_size, -1) for part in by_band], dim=1)
        values_gradient = torch.zeros_like(step.codes.values)
        values_gradient.view(-1)[places_BK.reshape(-1)] = gradient_BK.reshape(-1)
        step.add_values_gradient(values_gradient)
        step.add_gradient("W_dec", banded.transposed_times(left_rows))
        step.add_gradient("b_dec", left_LBM[0].sum(0))
        return loss


def by_rank(codes: Codes, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's k values in falling order, their latents, and their places in codes.values, flattened. [B, k] each."""
    if isinstance(codes, DenseCodes):
        values_BK, indices_BK = codes.values_BE.topk(k, dim=1)
        first_B = torch.arange(codes.batch_size, device=indices_BK.device) * codes.n_latents
        return values_BK, indices_BK, indices_BK + first_B[:, None]
    values_BK, order_BK = codes.values_P.view(-1, k).sort(dim=1, descending=True, stable=True)
    first_B = torch.arange(codes.batch_size, device=order_BK.device) * k
    return values_BK, codes.indices_P.view(-1, k).gather(1, order_BK), order_BK + first_B[:, None]


def _stack_bands(values_BK: Tensor, indices_BK: Tensor, bands: list[tuple[int, int]], n_latents: int) -> SparseCodes:
    """Codes of len(bands) * B rows: first band 0 of every row, then band 1, and so on, so that one pass serves all."""
    counts = torch.tensor([stop - start for start, stop in bands], device=values_BK.device)
    ends = counts.repeat_interleave(values_BK.shape[0]).cumsum(0)
    return SparseCodes(
        torch.cat([values_BK[:, start:stop].reshape(-1) for start, stop in bands]),
        torch.cat([indices_BK[:, start:stop].reshape(-1) for start, stop in bands]),
        torch.nn.functional.pad(ends, (1, 0)).to(indices_BK.dtype),
        n_latents,
    )


class MultiK(Term):
    """weight * squared error of the reconstruction by the multiple * k largest pre-activations of each row.

    Source: Gao et al. 2024, Multi-TopK; sparsify (4 k, weight 1/8) and HypotheSAEs (weight 0 by default).
    """

    class Settings(TermSettings):
        """Settings of the multi-k term."""

        term: Literal["multi_k"] = "multi_k"
        """Name in TERMS."""
        weight: float | Schedule = 1 / 8
        """Factor of this term in the loss. Default: sparsify's."""
        multiple: int = Field(default=4, ge=2)
        """Active latents, in multiples of the architecture's k. Default: the paper's."""
        reduction: Reduction = "fvu"
        """Of the error: `fvu`, over the batch's variance (sparsify, HypotheSAEs); `sum` over dimensions; or `mean`."""

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only with a k, of which the multiple must not exceed d_sae."""
        assert isinstance(settings, cls.Settings)
        needs_runners_up(settings, sae_settings)
        k = getattr(sae_settings, "k", None)
        largest = max(k.start, k.end) if isinstance(k, Schedule) else k
        if largest is None or settings.multiple * largest > sae_settings.d_sae:
            raise ValueError(
                f"term 'multi_k': multiple ({settings.multiple}) times sae.k ({largest}) must not exceed d_sae "
                f"({sae_settings.d_sae}); lower multiple or k"
            )

    def add(self, step: Step) -> Tensor:
        """The error at multiple * k, with gradients of all parameters; nothing at weight 0."""
        weight = value_at(self.settings.weight, step.fraction_done)
        if weight == 0:
            return step.target_BM.new_zeros(())
        share = weight / error_divisor(self.settings.reduction, step.target_BM)
        k = step.sae.target_l0(step.fraction_done)
        assert k is not None
        codes = row_topk(step.encoding.pre_BE, self.settings.multiple * int(k), step.sae.break_even_density)
        difference_BM = step.sae.decode(codes) - step.target_BM
        gradient_BM = difference_BM * (2 * share)
        values_gradient = codes.dots(gradient_BM, step.sae.W_dec) * (codes.values > 0)
        step.add_gradient("W_dec", codes.transposed_times(gradient_BM))
        step.add_gradient("b_dec", gradient_BM.sum(0))
        step.add_gradient("W_enc", codes.transposed_times(step.encoding.x0_BM, values_gradient))
        step.add_gradient("b_enc", codes.latent_sums(values_gradient))
        return share * difference_BM.square().sum()
