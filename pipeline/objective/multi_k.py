"""Multi-k: the SAE has to reconstruct well with several times its k, too, which keeps it from over-fitting that k."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from strata_sae.pipeline.kernels.selection import row_topk
from strata_sae.pipeline.objective.fits import needs_runners_up
from strata_sae.pipeline.objective.squared_error import Reduction, error_divisor
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import Schedule, value_at


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
        """Latents on, over the architecture's k. Default: the paper's."""
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
