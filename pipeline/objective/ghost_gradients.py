"""Ghost gradients: dead latents of a ReLU SAE, whose gradient is 0, get one through exp(pre-activation)."""

from typing import Literal

import torch
from torch import Tensor

from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import value_at


class GhostGradients(Term):
    """weight * squared error of the residual's reconstruction by exp(pre-activations) of the dead latents, rescaled.

    Row by row that reconstruction is scaled to half the residual's norm, and the error then to the size of the
    reconstruction's; residual and both scales are constants. Costs nothing while no latent is dead.
    Source: Anthropic, Circuits Updates January 2024, "Ghost Grads"; SAELens before version 6 (`use_ghost_grads`).
    """

    class Settings(TermSettings):
        """Settings of the ghost gradients term."""

        term: Literal["ghost_gradients"] = "ghost_gradients"
        """Name in TERMS."""
        rescale: Literal["batch", "elements"] = "batch"
        """Whose size the error gets: the batch's, as Anthropic's text has it, or that of every row and dimension by
        itself (SAELens, which takes the mean over dimensions: weight 1 / d_model here is its 1)."""

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only relu with an encoder of its own."""
        if sae_settings.architecture != "relu":
            raise ValueError(
                f"term 'ghost_gradients' needs the architecture 'relu', got {sae_settings.architecture!r}; remove it, "
                "or use the term 'aux_k' where it fits"
            )
        if getattr(sae_settings, "tied", False):
            raise ValueError("term 'ghost_gradients' moves the encoder by itself; set sae.tied to false")

    def add(self, step: Step) -> Tensor:
        """The rescaled error, with gradients on the dead latents' rows only."""
        weight = value_at(self.settings.weight, step.fraction_done) / step.target_BM.shape[0]
        if step.dead_E is None or weight == 0 or not bool(step.dead_E.any()):
            return step.target_BM.new_zeros(())
        dead = step.dead_E.nonzero().squeeze(1)
        W_dead = step.sae.W_dec[dead]
        residual_BM = step.target_BM - step.xhat_BM
        exp_BE = step.encoding.pre_of(dead).exp()  # of the dead latents only
        ghost_BM = exp_BE @ W_dead
        scale_B = residual_BM.norm(dim=1) / (1e-6 + 2 * ghost_BM.norm(dim=1))
        difference_BM = ghost_BM * scale_B[:, None] - residual_BM
        rescale = self._rescale(residual_BM.square(), difference_BM.square())

        gradient_BM = difference_BM * rescale * scale_B[:, None] * (2 * weight)
        pre_gradient_BE = (gradient_BM @ W_dead.T) * exp_BE
        step.add_gradient("W_dec", exp_BE.T @ gradient_BM, rows=dead)
        step.add_gradient("W_enc", pre_gradient_BE.T @ step.encoding.x0_BM, rows=dead)
        step.add_gradient("b_enc", pre_gradient_BE.sum(0), rows=dead)
        return weight * (difference_BM.square() * rescale).sum()

    def _rescale(self, error_BM: Tensor, ghost_error_BM: Tensor) -> Tensor:
        """The reconstruction's error over the ghosts', of the whole batch or element by element."""
        if self.settings.rescale == "elements":
            return error_BM / (ghost_error_BM + 1e-6)
        return error_BM.sum() / ghost_error_BM.sum().clamp(min=torch.finfo(error_BM.dtype).tiny)
