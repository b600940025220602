"""Progressive orthogonality: latents that are often active together are pushed to different directions."""

from typing import Literal, TypeAlias

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import DenseCodes, SparseCodes
from strata_sae.pipeline.objective.pairs import (
    active_sorted,
    between,
    co_active,
    competing,
    competition,
    of_activations,
    of_decoder,
)
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAESettings, Workspace
from strata_sae.pipeline.schedules import Value, value_at

Form: TypeAlias = tuple[str, str, float, float]
"""Normalisation, shape, threshold and temperature."""
Found: TypeAlias = tuple[Tensor, Tensor, int]
"""The unweighted loss, the sum of the absolute similarities of competing pairs, and how many there are."""


class Orthogonality(Term):
    """weight * sum over ordered pairs i != j of c_ij * penalty(similarity_ij); c_ij is a constant of the batch.

    c_ij comes from how often latents i and j are active in the same row, measured against a threshold (see pairs.py).
    Constant weight and threshold give the static form; schedules give the progressive ones. Source: seed 001; `on:
    activations`, `squared`, `mean` and `lift` are what its sibling experiments used.
    """

    class Settings(TermSettings):
        """Settings of the orthogonality term."""

        term: Literal["orthogonality"] = "orthogonality"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; seed 001 lets it fall to 0 with power 2 or 0.5."""
        threshold: Value = 0.1
        """Mask intersection from which two latents compete; seed 001 lets it fall from 0.1 to 0, or rise to 0.2."""
        threshold_momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
        """Share of the last step's threshold kept in this one's; 0: the schedule's value as it is."""
        floor: float = Field(default=1e-8, gt=0.0)
        """Smallest threshold: near 0, every pair that is active together at least once competes fully."""
        normalisation: Literal["min", "batch", "jaccard", "conditional", "lift"] = "min"
        """Rows in which both are active, over those of the rarer one, the batch, those with either, or those of the
        first; `lift`: `min` over l0 / d_sae, at most 10."""
        shape: Literal["linear", "sigmoid", "proportional"] = "linear"
        """c from n: `linear`: (n - threshold) / threshold within 0..1; `sigmoid`: of (n - threshold) / temperature;
        `proportional`: n itself, without a threshold."""
        temperature: float = Field(default=0.05, gt=0.0)
        """Width of the sigmoid, in units of n."""
        on: Literal["decoder", "activations"] = "decoder"
        """Similarity: <W_dec[i], W_dec[j]>, or (f^T f)_ij / B of the codes f, whose gradient moves the encoder."""
        penalty: Literal["absolute", "squared"] = "absolute"
        """Of the similarity."""
        reduction: Literal["sum", "mean"] = "sum"
        """Over pairs: their sum, or that over d_sae^2 (with weight 0.01 in seed 001's sibling)."""
        every_steps: int = Field(default=1, gt=0)
        """The term acts in every such step, and in no other (count); 1: in all."""
        watch: list[list[int]] = Field(default_factory=list)
        """Pairs [i, j] of latents whose c_ij and decoder cosine the curves follow."""

        @field_validator("watch")
        @classmethod
        def _pairs_of_two(cls, watch: list[list[int]]) -> list[list[int]]:
            for pair in watch:
                if len(pair) != 2 or pair[0] == pair[1] or min(pair) < 0:
                    raise ValueError(f"watch lists pairs of two different latents such as [3, 17], got {pair}")
            return watch

        @model_validator(mode="after")
        def _every_setting_has_an_effect(self) -> "Orthogonality.Settings":
            unused = {"linear": ["temperature"], "sigmoid": [], "proportional": ["threshold", "threshold_momentum"]}
            unused["proportional"] += ["temperature", "floor"]
            for name in unused[self.shape]:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} does nothing with shape {self.shape!r}; remove it or change the shape")
            return self

    settings: Settings

    def __init__(self, settings: TermSettings):
        super().__init__(settings)
        self._threshold: float | None = None  # with momentum: the last step's
        self._n_steps = 0
        self._scratch = Workspace()

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Not where l0 is learnt: half the latents are then active at first, and nearly all pairs co-active."""
        if ARCHITECTURES[sae_settings.architecture].learns_l0:
            fitting = ", ".join(name for name, sae in ARCHITECTURES.items() if not sae.learns_l0)
            raise ValueError(
                f"term 'orthogonality' needs an architecture with few active latents per row ({fitting}), got "
                f"{sae_settings.architecture!r}; change the architecture or remove the term"
            )
        assert isinstance(settings, cls.Settings)
        for pair in settings.watch:
            if max(pair) >= sae_settings.d_sae:
                raise ValueError(f"watch names the pair {pair}, but d_sae is {sae_settings.d_sae}")

    def add(self, step: Step) -> Tensor:
        """The penalty; its gradient moves W_dec only, or with `on: activations` the encoder only."""
        settings = self.settings
        weight = value_at(settings.weight, step.fraction_done)
        threshold = self._advance_threshold(step.fraction_done)
        self._n_steps += 1
        if weight == 0 or self._n_steps % settings.every_steps:
            return step.target_BM.new_zeros(())
        if settings.reduction == "mean":
            weight /= step.sae.d_sae**2
        form = (settings.normalisation, settings.shape, threshold, settings.temperature)
        # Sorted by row and latent, entries of value 0 left out: pairs are found by their places in a row.
        codes, places_P = active_sorted(step.codes.to_sparse())
        step.monitors["orthogonality/threshold"] = threshold
        self._watch(step, codes, form)
        on_decoder = settings.on == "decoder"
        found = (self._on_decoder if on_decoder else self._on_activations)(step, codes, places_P, form, weight)
        loss, absolute, n_pairs = found
        step.monitors["orthogonality/competing_pairs"] = float(n_pairs)
        name = "mean_abs_cos" if on_decoder else "mean_abs_product"
        step.monitors[f"orthogonality/{name}"] = absolute / max(n_pairs, 1)
        return weight * loss.to(step.target_BM.dtype)

    def _on_decoder(self, step: Step, codes: SparseCodes, places_P: Tensor, form: Form, weight: float) -> Found:
        """The unweighted sum over products of decoder rows; W_dec gets its gradient."""
        W_dec = step.sae.W_dec
        gradient = self._scratch.buffer(W_dec.shape[0], W_dec.shape[1], like=W_dec).zero_()
        loss, absolute, n_pairs = _nothing(W_dec)
        for pairs, c in competing(codes, *form):
            found = of_decoder(W_dec, codes, pairs, c, self.settings.penalty, weight, gradient)
            loss, absolute = loss + found.loss, absolute + found.absolute
            n_pairs += int((c > 0).sum())
        step.add_gradient("W_dec", gradient)
        return loss, absolute, n_pairs

    def _on_activations(self, step: Step, codes: SparseCodes, places_P: Tensor, form: Form, weight: float) -> Found:
        """The unweighted sum over products of codes; the values get its gradient."""
        gradient_P = torch.zeros_like(codes.values_P)
        loss, absolute, n_pairs = _nothing(gradient_P)
        for pairs, where in co_active(codes):
            c = competition(pairs, *form)
            found = of_activations(codes, where, c, self.settings.penalty, weight, gradient_P)
            loss, absolute = loss + found.loss, absolute + found.absolute
            n_pairs += int((c > 0).sum())
        if isinstance(step.codes, DenseCodes):
            step.add_values_gradient(codes.with_values(gradient_P).to_dense())
        else:
            gradient = torch.zeros_like(step.codes.values)
            gradient[places_P] = gradient_P
            step.add_values_gradient(gradient)
        return loss, absolute, n_pairs

    def _watch(self, step: Step, codes: SparseCodes, form: Form) -> None:
        """Competition and cosine of the watched pairs, as monitors."""
        if not self.settings.watch:
            return
        first, second = codes.indices_P.new_tensor(self.settings.watch).T
        shares = competition(between(codes, first, second), *form).nan_to_num() / 2
        W_dec = step.sae.W_dec
        cosines = torch.nn.functional.cosine_similarity(W_dec[first], W_dec[second], dim=1)
        for (i, j), c, cos in zip(self.settings.watch, shares, cosines, strict=True):
            step.monitors[f"orthogonality/c_{i}_{j}"] = c
            step.monitors[f"orthogonality/cos_{i}_{j}"] = cos

    def state(self) -> dict[str, Tensor]:
        """The threshold with momentum, once there is one, and the number of steps where `every_steps` needs it."""
        state = {}
        if self._threshold is not None:
            state["threshold"] = torch.tensor(self._threshold, dtype=torch.float64)
        if self.settings.every_steps > 1:
            state["steps"] = torch.tensor(self._n_steps)
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state."""
        self._threshold = float(state["threshold"]) if "threshold" in state else None
        self._n_steps = int(state.get("steps", 0))

    def _advance_threshold(self, fraction_done: float) -> float:
        """The threshold of this step; with momentum, an average with the last step's."""
        threshold = value_at(self.settings.threshold, fraction_done)
        momentum = self.settings.threshold_momentum
        if momentum > 0:
            before = threshold if self._threshold is None else self._threshold
            self._threshold = threshold = momentum * before + (1 - momentum) * threshold
        return max(threshold, self.settings.floor)


def _nothing(like: Tensor) -> Found:
    zero = like.new_zeros((), dtype=torch.float64)
    return zero, zero, 0
