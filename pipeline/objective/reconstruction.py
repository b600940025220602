"""Squared error of the reconstruction."""

from typing import Literal

from torch import Tensor, finfo, linalg

from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.schedules import value_at

Reduction = Literal["sum", "mean", "fvu"]
"""Mean over rows of the sum over dimensions | mean over rows and dimensions | share of the batch's variance."""


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
        error = linalg.vector_norm(difference_BM).square()  # reads the matrix once, without one of squares
        step.add_xhat_gradient(difference_BM.mul_(2 * weight))
        return weight * error


def error_divisor(reduction: Reduction, target_BM: Tensor) -> Tensor | int:
    """What the sum of a batch's squared errors is divided by.

    `sum`: B (dictionary_learning, SAELens). `mean`: B * M (seed 0, overcomplete): a penalty of weight w beside it does
    what one of weight w * M does beside `sum`. `fvu`: the batch's squared deviation from its mean row (sparsify,
    HypotheSAEs).
    """
    if reduction == "fvu":  # tiny: in a batch of equal rows the loss is infinite or 0, never NaN
        return (target_BM - target_BM.mean(0)).square().sum().clamp(min=finfo(target_BM.dtype).tiny)
    return target_BM.shape[0] if reduction == "sum" else target_BM.numel()
