"""The second reconstruction of a Gated SAE, by the gate alone: it and sparsity give the gate its gradients."""

from typing import Literal

from torch import Tensor

from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.saes.gated import Gated, GatedEncoding
from strata_sae.pipeline.schedules import value_at


class GatedAuxiliary(Term):
    """weight * mean over rows of |x - (relu(gate) W_dec + b_dec)|^2, where W_dec and b_dec are constants.

    Source: Rajamanoharan et al. 2024, Gated SAEs, equation 8.
    """

    class Settings(TermSettings):
        """Settings of the gated auxiliary term."""

        term: Literal["gated_auxiliary"] = "gated_auxiliary"
        """Name in TERMS."""
        detached: bool = True
        """Whether the decoder is a constant here (the paper, dictionary_learning). false: SAELens."""

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where there is a gate."""
        if not isinstance(sae_settings, Gated.Settings):
            raise ValueError(
                f"term {settings.term!r} fits the architecture 'gated', got {sae_settings.architecture!r}, which has "
                "no gate; remove it"
            )

    def add(self, step: Step) -> Tensor:
        """The gate's squared error, and its derivative by the gate."""
        assert isinstance(step.encoding, GatedEncoding)
        sae, gate = step.sae, step.codes.with_values(step.encoding.gate)
        difference_BM = gate.decode(sae.W_dec) + sae.b_dec - step.target_BM
        weight = value_at(self.settings.weight, step.fraction_done) / step.target_BM.shape[0]
        gradient_BM = difference_BM * (2 * weight)
        step.add_penalty_gradient(gate.dots(gradient_BM, sae.W_dec))
        if not self.settings.detached:
            step.add_gradient("W_dec", gate.transposed_times(gradient_BM))
            step.add_gradient("b_dec", gradient_BM.sum(0))
        return weight * difference_BM.square().sum()
