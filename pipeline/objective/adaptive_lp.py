"""Lp penalties that adapt while they train: to each latent's frequency, or to an exponent that falls in steps."""

from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from strata_sae.pipeline.objective.sparsity import Form, above_zero, lp, weighted_lp_p
from strata_sae.pipeline.objective.term import Step, Term, TermSettings, needs_codes_from_zero
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
        """Share of the running frequency that a step keeps; the frequency begins at 0.01."""
        alpha: float = Field(default=0.5, ge=0.0)
        """How strongly the frequency counts; 0: not at all."""
        frequency_epsilon: float = Field(default=1e-4, gt=0.0)
        """Added to the frequency, which bounds lambda for latents that are never active."""
        normalise: bool = True
        """Whether w is divided by its mean over the latents."""
        clip: Literal["relative", "absolute", "off"] = "relative"
        """What the limits are: multiples of weight, lambdas, or nothing. Seed 0's first version: absolute."""
        clip_min: float = Field(default=0.1, ge=0.0)
        """Smallest lambda; absolute in seed 0: 1e-4."""
        clip_max: float = Field(default=10.0, gt=0.0)
        """Largest lambda; absolute in seed 0: 1e-2."""
        warmup_steps: int = Field(default=200, ge=0)
        """Frequencies count from this step on (from 1); before it lambda = weight for all latents."""

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
        """Only where the number of active latents is learnt, and codes rise from 0."""
        needs_codes_from_zero(settings, sae_settings)

    def add(self, step: Step) -> Tensor:
        """The penalty, and its derivative by every active value."""
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
            # Seed 0's start: equal for all, so that every latent has the same lambda until frequencies are known.
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


class PAnneal(Term):
    """weight * scale * Lp penalty; p goes from p_start to p_end in n_updates steps.

    At an update, after the step's loss, scale is multiplied by the recent mean penalty at p over that at the next p, so
    that the loss does not jump; the first update only starts the comparison. Source: Karvonen et al. 2024, Measuring
    Progress in Dictionary Learning; dictionary_learning's PAnnealTrainer, and GatedAnnealTrainer for gated.
    """

    class Settings(TermSettings):
        """Settings of the p-annealing term."""

        term: Literal["p_anneal"] = "p_anneal"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss before any update; a schedule warms it up."""
        form: Form = "lp_p"
        """`lp_p`: the sum of the powers; `lp`: its p-th root."""
        p_start: float = Field(default=1.0, gt=0.0)
        """Exponent before the second update."""
        p_end: float = Field(default=0.2, gt=0.0)
        """Exponent after the last update. Default: dictionary_learning's demo; its own default, 0, divides by zero."""
        n_updates: int = Field(default=10, ge=2, le=1_000_000)
        """Updates (count), evenly from `begin` to `finish`, the first of which leaves p where it is."""
        begin: float = Field(default=0.04, ge=0.0, lt=1.0)
        """Progress of the first update (share of the run). Default: 10,000 of the demo's 244,140 steps."""
        finish: float = Field(default=0.8, gt=0.0, le=1.0)
        """Progress of the last update (share of the run). Default: where the learning rate begins to fall."""
        queue_steps: int = Field(default=10, gt=0)
        """Recent steps whose penalties are compared at an update (count)."""
        epsilon: float = Field(default=1e-6, ge=0.0)
        """Added to every code, which bounds the derivative near 0. dictionary_learning: 0."""
        compat: Literal["dictionary_learning"] | None = None
        """`dictionary_learning`: `finish` may be 1, where the last update would come after the last step, so that p
        ends one update short of p_end."""

        @model_validator(mode="after")
        def _last_update_comes(self) -> "PAnneal.Settings":
            if self.finish <= self.begin:
                raise ValueError(f"finish ({self.finish}) must be larger than begin ({self.begin})")
            if self.finish == 1.0 and self.compat is None:
                raise ValueError(
                    "finish must be below 1, got 1.0: p_end would never be used; lower it, or set compat to "
                    "'dictionary_learning' to reproduce that"
                )
            return self

    settings: Settings

    def __init__(self, settings: TermSettings):
        super().__init__(settings)
        self._step = 0
        self._updates = 0
        self._scale = 1.0
        self._queue: Tensor | None = None  # [recent steps, 2]: penalty at p, and at the next p

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only where the number of active latents is learnt, and codes rise from 0."""
        needs_codes_from_zero(settings, sae_settings)

    def add(self, step: Step) -> Tensor:
        """The penalty at the present p; afterwards p and scale change, if an update is due."""
        settings = self.settings
        p, next_p = self._p(self._updates), self._p(self._updates + 1)
        weight = value_at(settings.weight, step.fraction_done) * self._scale / step.target_BM.shape[0]
        total, derivative = lp(step.codes, step.encoding.penalised, p, settings.epsilon, settings.form)
        step.add_penalty_gradient(derivative * weight)
        step.monitors["p_anneal/p"] = p
        step.monitors["p_anneal/scale"] = self._scale
        if self._updates > 0:
            after, _ = lp(step.codes, step.encoding.penalised, next_p, settings.epsilon, settings.form)
            both = torch.stack([total, after]).double()[None]  # float64: a mean over steps loses no bits
            before = both[:0] if self._queue is None else self._queue.to(both.device)
            self._queue = torch.cat([before, both])[-settings.queue_steps :]
        if self._is_due(step.fraction_done):
            self._rescale()
            self._updates += 1
        self._step += 1
        return weight * total

    def state(self) -> dict[str, Tensor]:
        """Steps, updates, scale, and the recent penalties."""
        queue = torch.zeros(0, 2, dtype=torch.float64) if self._queue is None else self._queue
        scale = torch.tensor(self._scale, dtype=torch.float64)
        return {
            "step": torch.tensor(self._step),
            "updates": torch.tensor(self._updates),
            "scale": scale,
            "queue": queue,
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state."""
        if state:
            self._step, self._updates, self._scale = (int(state["step"]), int(state["updates"]), float(state["scale"]))
            self._queue = state["queue"].clone() if state["queue"].numel() else None

    def _p(self, updates: int) -> float:
        """The exponent after that many updates."""
        settings = self.settings
        place = min(max(updates - 1, 0), settings.n_updates - 1) / (settings.n_updates - 1)
        return settings.p_start + (settings.p_end - settings.p_start) * place

    def _is_due(self, fraction_done: float) -> bool:
        if self._updates == self.settings.n_updates:
            return False
        if self._step == 0 or fraction_done == 0.0:
            return self.settings.begin == 0.0
        # A term is told the share of the run, not its length: the quotient is that length to within rounding.
        n_steps = round(self._step / fraction_done)
        return self._step >= update_steps(self.settings, n_steps)[self._updates]

    def _rescale(self) -> None:
        """Does nothing before the second update, nor while no latent is active."""
        if self._queue is not None:
            now, after = self._queue.mean(0).tolist()
            self._scale *= now / after if after > 0 else 1.0


def update_steps(settings: PAnneal.Settings, n_steps: int) -> list[int]:
    """The steps (0-based) of a run of n_steps at whose end p moves, cut to whole ones as in the source."""
    first, last = round(settings.begin * n_steps), round(settings.finish * n_steps)
    return torch.linspace(first, last, settings.n_updates, dtype=torch.int64).tolist()
