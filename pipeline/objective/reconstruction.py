"""Squared error of the reconstruction."""

from typing import Literal

from torch import Tensor

from pipeline.objective.term import Step, Term, TermSettings
from pipeline.schedules import value_at


class Reconstruction(Term):
    """weight * mean over rows of the sum over dimensions of (x - xhat)^2."""

    class Config(TermSettings):
        """Knobs of the reconstruction term."""

        term: Literal["reconstruction"] = "reconstruction"
        """Name in TERMS."""

    reconstructs = True

    def add(self, step: Step) -> Tensor:
        """SSE, and 2 (xhat - x) / B as dloss/dxhat."""
        weight = value_at(self.settings.weight, step.progress) / step.x_BM.shape[0]
        difference_BM = step.xhat_BM - step.x_BM
        step.add_xhat_gradient(difference_BM * (2 * weight))
        return weight * difference_BM.square().sum()
