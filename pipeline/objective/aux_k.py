"""AuxK: dead latents explain what the living ones leave over, so that they come back to life."""

from typing import Literal

from torch import Tensor

from pipeline.kernels.selection import row_topk
from pipeline.objective.term import Step, Term, TermSettings
from pipeline.saes.base import SAESettings
from pipeline.schedules import Value, value_at


class AuxK(Term):
    """weight * squared error of the residual's reconstruction by the top dead latents, over the residual's variance.

    min(d_model // 2, number of dead latents) dead latents per row, without decoder bias; residual and variance are
    constants. Costs nothing while no latent is dead.
    Source: Gao et al. 2024, appendix A.2, in the form of dictionary_learning.
    """

    class Config(TermSettings):
        """Knobs of the AuxK term."""

        term: Literal["aux_k"] = "aux_k"
        """Name in TERMS."""
        weight: Value = 1 / 32
        """Factor of this term in the loss. Default: the paper's."""

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Not relu: there a dead latent has no positive pre-activation, so the term would do nothing."""
        if sae_settings.architecture == "relu":
            raise ValueError(
                "term 'aux_k' fits architectures that select among positive pre-activations, got 'relu': its dead "
                "latents have none, so the term would do nothing; remove it"
            )

    def add(self, step: Step) -> Tensor:
        """The auxiliary loss, with gradients on the dead latents' rows only."""
        if step.dead_E is None or not bool(step.dead_E.any()):
            return step.x_BM.new_zeros(())
        residual_BM = step.x_BM - step.xhat_BM
        variance = float((residual_BM - residual_BM.mean(0)).square().sum()) / residual_BM.shape[0]
        if variance == 0:
            return step.x_BM.new_zeros(())

        dead = step.dead_E.nonzero().squeeze(1)
        W_dead = step.sae.W_dec[dead]
        codes = row_topk(step.encoding.pre_BE[:, dead], min(residual_BM.shape[1] // 2, dead.numel()))
        difference_BM = codes.decode(W_dead) - residual_BM
        weight = value_at(self.settings.weight, step.progress) / (residual_BM.shape[0] * variance)
        gradient_BM = difference_BM * (2 * weight)

        values_gradient = codes.dots(gradient_BM, W_dead) * (codes.values > 0)
        step.add_gradient("W_dec", codes.transposed_times(gradient_BM), rows=dead)
        step.add_gradient("W_enc", codes.transposed_times(step.encoding.x0_BM, values_gradient), rows=dead)
        step.add_gradient("b_enc", codes.latent_sums(values_gradient), rows=dead)
        return weight * difference_BM.square().sum()
