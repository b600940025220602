"""An Lp penalty that is cheaper for latents that are often on."""

from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from strata_sae.pipeline.objective.fits import needs_codes_from_zero
from strata_sae.pipeline.objective.lp import above_zero, weighted_lp_p
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import Value, value_at


class FrequencyWeightedLp(Term):
    """Mean over rows of sum over latents of lambda * (code + epsilon)^p; lambda falls with a latent's frequency.

    lambda = weight * w, w = (frequency + frequency_epsilon)^-alpha over its mean, then clipped. The frequency is a
    running mean, this batch included; lambda is a constant of the step. Source: seed 0 (sae_dict_learning_experiments),
    l1_freq_weighted and p_annealing_freq.
    """

    class Settings(TermSettings):
        """Settings of the frequency-weighted Lp term."""

        term: Literal["frequency_weighted_lp"] = "frequency_weighted_lp"
        """Name in TERMS."""
        weight: Value
        """Mean of lambda over the latents, before clipping."""
        p: Value = 1.0
        """Exponent; seed 0's p_annealing_freq lets it fall from 1 to 0.5."""
        epsilon: float = Field(default=1e-6, ge=0.0)
        """Added to every code, which bounds the derivative near 0."""
        beta: float = Field(default=0.99, ge=0.0, lt=1.0)
        """Share of the running frequency kept at every step; it begins at 0.01."""
        alpha: float = Field(default=0.5, ge=0.0)
        """How strongly the frequency counts; 0: not at all."""
        frequency_epsilon: float = Field(default=1e-4, gt=0.0)
        """Added to the frequency, which bounds lambda for latents that are never on."""
        normalise: bool = True
        """Whether w is divided by its mean over the latents."""
        clip: Literal["relative", "absolute", "off"] = "relative"
        """What the limits are: multiples of weight, lambdas, or nothing. Seed 0's first version: absolute."""
        clip_min: float = Field(default=0.1, ge=0.0)
        """Smallest lambda; absolute in seed 0: 1e-4."""
        clip_max: float = Field(default=10.0, gt=0.0)
        """Largest lambda; absolute in seed 0: 1e-2."""
        warmup_steps: int = Field(default=200, ge=0)
        """From this step on (counted from 1) frequencies count; before it lambda = weight for all."""

        @field_validator("p")
        @classmethod
        def _stays_above_zero(cls, p: Value) -> Value:
            return above_zero("p", p)

        @model_validator(mode="after")
        def _limits_in_order(self) -> "FrequencyWeightedLp.Settings":
            if self.clip_min > self.clip_max:
                raise ValueError(f"clip_min ({self.clip_min}) must not exceed clip_max ({self.clip_max}); swap them")
            return self

    settings: Settings

    def __init__(self, settings: TermSettings):
        super().__init__(settings)
        self._frequencies_E: Tensor | None = None
        self._n_steps = 0

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where the number of latents on is learnt, and codes rise from 0."""
        needs_codes_from_zero(settings, sae_settings)

    def add(self, step: Step) -> Tensor:
        """The penalty, and its derivative by every code that is on."""
        settings = self.settings
        p = value_at(settings.p, step.fraction_done)
        weight = value_at(settings.weight, step.fraction_done)
        lambda_E = self._lambdas(weight, self._advance(step))
        total, derivative = weighted_lp_p(step.codes, step.encoding.penalised, p, settings.epsilon, lambda_E)
        step.add_penalty_gradient(derivative / step.target_BM.shape[0])
        step.monitors["frequency_weighted_lp/p"] = p
        for name, number in (("min", lambda_E.amin()), ("mean", lambda_E.mean()), ("max", lambda_E.amax())):
            step.monitors[f"frequency_weighted_lp/lambda_{name}"] = number
        return total / step.target_BM.shape[0]

    def state(self) -> dict[str, Tensor]:
        """The running frequencies and the steps so far, once there are any."""
        if self._frequencies_E is None:
            return {}
        return {"frequencies": self._frequencies_E, "n_steps": torch.tensor(self._n_steps)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from saved frequencies."""
        self._frequencies_E = state["frequencies"].clone() if state else None
        self._n_steps = int(state["n_steps"]) if state else 0

    def _advance(self, step: Step) -> Tensor:
        """Count this batch. Returns: the running frequencies, [E]."""
        share_E = step.codes.active_rows_E().to(step.target_BM.dtype) / step.target_BM.shape[0]
        if self._frequencies_E is None:
            self._frequencies_E = torch.full_like(share_E, 0.01)
        self._frequencies_E = self._frequencies_E.to(share_E.device)
        self._frequencies_E.mul_(self.settings.beta).add_(share_E, alpha=1.0 - self.settings.beta)
        self._n_steps += 1
        return self._frequencies_E

    def _lambdas(self, weight: float, frequencies_E: Tensor) -> Tensor:
        settings = self.settings
        if self._n_steps < settings.warmup_steps:
            return torch.full_like(frequencies_E, weight)
        w_E = (frequencies_E + settings.frequency_epsilon).pow(-settings.alpha)
        if settings.normalise:
            w_E = w_E / w_E.mean()
        if settings.clip == "off":
            return weight * w_E
        unit = weight if settings.clip == "relative" else 1.0
        return (weight * w_E).clamp(unit * settings.clip_min, unit * settings.clip_max)
