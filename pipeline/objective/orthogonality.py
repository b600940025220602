"""Progressive orthogonality: latents that are often on together are pushed to different directions."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.objective.competition import competing
from pipeline.objective.term import Step, Term, TermSettings
from pipeline.saes.base import SAESettings
from pipeline.schedules import Value, value_at


class Orthogonality(Term):
    """weight * sum over ordered pairs i != j of c_ij |<W_dec[i], W_dec[j]>|; c_ij is a constant of the batch.

    c_ij comes from how often latents i and j are on in the same row, measured against a threshold (see competition.py).
    Constant weight and threshold give the static form; schedules give the progressive ones.
    """

    class Config(TermSettings):
        """Knobs of the orthogonality term."""

        term: Literal["orthogonality"] = "orthogonality"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; seed 001 lets it fall to 0 with power 2 or 0.5."""
        threshold: Value = 0.1
        """Mask intersection from which two latents compete; seed 001 lets it fall from 0.1 to 0, or rise."""
        threshold_momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
        """Share of the last step's threshold kept in this one's; 0: the schedule's value as it is."""
        floor: float = Field(default=1e-8, gt=0.0)
        """Smallest threshold: near 0 every pair that is ever on together competes fully."""
        normalisation: Literal["min", "batch", "jaccard", "conditional"] = "min"
        """Rows in which both are on, over: those of the rarer one, the batch, those with either, those of the first."""
        shape: Literal["linear", "sigmoid"] = "linear"
        """c from n: `linear`: (n - threshold) / threshold within 0..1; `sigmoid`: of (n - threshold) / temperature."""
        temperature: float = Field(default=0.05, gt=0.0)
        """Width of the sigmoid, in units of n."""

    settings: Config

    def __init__(self, settings: TermSettings):
        super().__init__(settings)
        self._threshold: float | None = None  # with momentum: the last step's

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Not relu: early in training half of its latents are on, so nearly all pairs would be co-active."""
        if sae_settings.architecture == "relu":
            raise ValueError(
                "term 'orthogonality' needs an architecture with few latents on per row (topk, batch_topk), got "
                "'relu'; change the architecture or remove the term"
            )

    def add(self, step: Step) -> Tensor:
        """The penalty; its gradient moves W_dec only."""
        weight = value_at(self.settings.weight, step.progress)
        threshold = self._advance_threshold(step.progress)
        if weight == 0:
            return step.x_BM.new_zeros(())
        knobs = self.settings
        W_dec = step.sae.W_dec
        pairs, n_pairs = competing(
            step.codes.to_sparse(), knobs.normalisation, knobs.shape, threshold, knobs.temperature
        )
        dots_P = pairs.dots(W_dec, W_dec)
        pull = pairs.with_values(pairs.values_P * dots_P.sign() * weight)
        step.add_gradient("W_dec", pull.decode(W_dec) + pull.transposed_times(W_dec))
        step.monitors["orthogonality/competing_pairs"] = float(n_pairs)
        step.monitors["orthogonality/mean_abs_cos"] = dots_P.abs().mean() if n_pairs else 0.0
        step.monitors["orthogonality/threshold"] = threshold
        return weight * torch.dot(pairs.values_P, dots_P.abs())

    def state(self) -> dict[str, Tensor]:
        """The threshold with momentum, once there is one."""
        if self._threshold is None:
            return {}
        return {"threshold": torch.tensor(self._threshold, dtype=torch.float64)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved threshold."""
        self._threshold = float(state["threshold"]) if "threshold" in state else None

    def _advance_threshold(self, progress: float) -> float:
        """The threshold of this step; with momentum it moves the remembered one."""
        threshold = value_at(self.settings.threshold, progress)
        momentum = self.settings.threshold_momentum
        if momentum > 0:
            before = threshold if self._threshold is None else self._threshold
            self._threshold = threshold = momentum * before + (1 - momentum) * threshold
        return max(threshold, self.settings.floor)
