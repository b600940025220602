"""Squared error of the reconstruction."""

from typing import Literal

from torch import Tensor, linalg

from strata_sae.pipeline.objective.squared_error import Reduction, error_divisor
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.schedules import value_at


class Reconstruction(Term):
    """weight * the squared error (x - xhat)^2 of a batch, reduced."""

    class Settings(TermSettings):
        """Settings of the reconstruction term."""

        term: Literal["reconstruction"] = "reconstruction"
        """Name in TERMS."""
        reduction: Reduction = "sum"
        """`sum`: over dimensions, mean over rows; `mean`: over both (seed 0); `fvu`: over the batch's variance."""

    settings: Settings
    reconstructs = True

    def add(self, step: Step) -> Tensor:
        """The error, and its derivative by xhat."""
        weight = value_at(self.settings.weight, step.fraction_done) / error_divisor(
            self.settings.reduction, step.target_BM
        )
        difference_BM = step.xhat_BM - step.target_BM
        error = linalg.vector_norm(difference_BM).square()
        step.add_xhat_gradient(difference_BM.mul_(2 * weight))
        return weight * error
