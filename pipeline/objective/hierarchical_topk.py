"""HierarchicalTopK: the j largest latents of a row have to reconstruct on their own, for several j at once."""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes
from strata_sae.pipeline.objective.squared_error import Reduction, error_divisor
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import value_at


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
        """Latents on per row that have to do (counts), rising, the last the architecture's k."""
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
        # A latent of band l is on for the ks l and later: its gradient is the sum of theirs.
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
    """Each row's k values, falling; their latents; their places in the flattened codes.values. All [B, k]."""
    if isinstance(codes, DenseCodes):
        values_BK, indices_BK = codes.values_BE.topk(k, dim=1)
        first_B = torch.arange(codes.batch_size, device=indices_BK.device) * codes.n_latents
        return values_BK, indices_BK, indices_BK + first_B[:, None]
    values_BK, order_BK = codes.values_P.view(-1, k).sort(dim=1, descending=True, stable=True)
    first_B = torch.arange(codes.batch_size, device=order_BK.device) * k
    return values_BK, codes.indices_P.view(-1, k).gather(1, order_BK), order_BK + first_B[:, None]


def _stack_bands(values_BK: Tensor, indices_BK: Tensor, bands: list[tuple[int, int]], n_latents: int) -> SparseCodes:
    """Codes of len(bands) * B rows, all rows' ranks of a band after those of the band before: one pass does for all."""
    counts = torch.tensor([stop - start for start, stop in bands], device=values_BK.device)
    ends = counts.repeat_interleave(values_BK.shape[0]).cumsum(0)
    return SparseCodes(
        torch.cat([values_BK[:, start:stop].reshape(-1) for start, stop in bands]),
        torch.cat([indices_BK[:, start:stop].reshape(-1) for start, stop in bands]),
        torch.nn.functional.pad(ends, (1, 0)).to(indices_BK.dtype),
        n_latents,
    )
