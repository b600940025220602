"""Penalties that make the codes of a ReLU SAE sparse."""

from typing import Literal

import torch
from torch import Tensor

from pipeline.objective.term import Step, Term, TermSettings
from pipeline.saes import ARCHITECTURES
from pipeline.saes.base import SAESettings
from pipeline.schedules import Value, value_at


class L1(Term):
    """weight * mean over rows of the sum of the codes; warm it up with a schedule of the weight.

    Decoder rows have norm 1 (the trainer keeps them so), hence the codes are not multiplied by those norms.
    """

    class Config(TermSettings):
        """Knobs of the L1 term."""

        term: Literal["l1"] = "l1"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; 0.01 to 0.1 is usual where E||x||^2 = 1 (dictionary_learning)."""

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where the number of latents on is learnt: elsewhere k already fixes it."""
        if not ARCHITECTURES[sae_settings.architecture].learns_l0:
            fitting = ", ".join(name for name, sae in ARCHITECTURES.items() if sae.learns_l0)
            raise ValueError(
                f"term {settings.term!r} fits architectures that learn how many latents are on ({fitting}), got "
                f"{sae_settings.architecture!r}, whose k already fixes it; remove the term or change the architecture"
            )

    def add(self, step: Step) -> Tensor:
        """The penalty, and weight / B for every value that is on."""
        weight = value_at(self.settings.weight, step.progress) / step.x_BM.shape[0]
        step.add_penalty_gradient(torch.full_like(step.encoding.penalised, weight))
        return weight * step.encoding.penalised.sum()
