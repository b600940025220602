"""Progressive orthogonality: latents that are often active together are pushed to different directions."""

from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes
from strata_sae.pipeline.objective import all_pairs, similarity
from strata_sae.pipeline.objective.pairs import Form, activations, active_sorted, apart, between, competition_of_any
from strata_sae.pipeline.objective.similarity import Found
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings, Workspace
from strata_sae.pipeline.saes.jump_relu import JumpReLU
from strata_sae.pipeline.schedules import Value, value_at


class Orthogonality(Term):
    """weight * sum over ordered pairs i != j of c_ij * penalty(similarity_ij); c_ij is a constant of the batch.

    c_ij comes from how often latents i and j are active in the same row, measured against a threshold (see pairs.py).
    Constant weight and threshold give the static form; schedules give the progressive ones. With weight 0 the term is
    only measured. Where codes are full matrices (relu, gated and jump_relu with many active latents) a step costs three
    products of E^2 times the batch size or the model's width. Source: seed 001; `on: activations`, `squared`, `mean`
    and `lift` are what its sibling experiments used.
    """

    class Settings(TermSettings):
        """Settings of the orthogonality term."""

        term: Literal["orthogonality"] = "orthogonality"
        """Name in TERMS."""
        weight: Value
        """Factor of this term in the loss; seed 001 lets it fall to 0 with power 2 or 0.5. 0: competition and cosines
        are logged, and the weights are those of a run without the term."""
        from_progress: float = Field(default=0.0, ge=0.0, lt=1.0)
        """Share of the run (0 to 1) from which the term acts. Schedules do not wait for it. Above 0 where l0 is learnt:
        at first half the latents are active there, and nearly every pair competes."""
        threshold: Value = 0.1
        """Mask intersection from which two latents compete; seed 001 lets it fall from 0.1 to 0, or rise to 0.2."""
        threshold_momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
        """Share of the last step's threshold kept in this one's; 0: the schedule's value as it is."""
        floor: float = Field(default=1e-8, gt=0.0)
        """Smallest threshold: near 0, every pair that is active together at least once competes fully."""
        normalisation: Literal["min", "batch", "jaccard", "conditional", "lift"] = "min"
        """Rows in which both are active, over those of the rarer one, the batch, those with either, or those of the
        first; `lift`: `min` over l0 / d_sae, at most 10."""
        shape: Literal["linear", "sigmoid", "sigmoid_co_active", "proportional"] = "linear"
        """c from n: `linear`: (n - threshold) / threshold within 0..1; `sigmoid`: of (n - threshold) / temperature,
        also for pairs that are never active together (n = 0), which takes two products of E x M^2 more with penalty
        `squared`, two of E^2 x M with `absolute`; `sigmoid_co_active`: without those pairs, whose share of the sum is
        then logged; `proportional`: n itself, without a threshold."""
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
        """Pairs [i, j] of latents whose c_ij (the mean of c_ij and c_ji), decoder cosine and correlation of activations
        the curves follow, also with weight 0 and before `from_progress`."""

        @field_validator("watch")
        @classmethod
        def _pairs_of_two(cls, watch: list[list[int]]) -> list[list[int]]:
            for pair in watch:
                if len(pair) != 2 or pair[0] == pair[1] or min(pair) < 0:
                    raise ValueError(f"watch lists pairs of two different latents such as [3, 17], got {pair}")
            return watch

        @model_validator(mode="after")
        def _every_setting_has_an_effect(self) -> "Orthogonality.Settings":
            unused = {
                "linear": ["temperature"],
                "proportional": ["threshold", "threshold_momentum", "temperature", "floor"],
            }
            for name in unused.get(self.shape, []):
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
        """Watched latents must be there."""
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
        form = Form(settings.normalisation, settings.shape, threshold, settings.temperature)
        if step.monitored:
            step.monitors["orthogonality/threshold"] = threshold
            self._watch(step, form)
        begun = step.fraction_done >= settings.from_progress
        acts = begun and weight != 0 and self._n_steps % settings.every_steps == 0
        if not acts and not (begun and step.monitored):
            return step.target_BM.new_zeros(())
        if settings.reduction == "mean":
            weight /= step.sae.d_sae**2
        penalise = self._of_decoder if settings.on == "decoder" else self._of_activations
        found = penalise(step, form, weight if acts else None)
        if step.monitored:
            self._monitor(step, form, found)
        return (weight if acts else 0.0) * found.loss.to(step.target_BM.dtype)

    def _of_decoder(self, step: Step, form: Form, weight: float | None) -> Found:
        """The unweighted sum over products of decoder rows; W_dec gets its gradient, unless the weight is None."""
        W_dec, penalty = step.sae.W_dec, self.settings.penalty
        gradient = None if weight is None else self._scratch.buffer(W_dec.shape[0], W_dec.shape[1], like=W_dec).zero_()
        if isinstance(step.codes, DenseCodes):
            found = all_pairs.of_decoder_tiles(W_dec, step.codes, form, penalty, weight or 0.0, gradient)
        else:
            # Sorted by row and latent, entries of value 0 left out: pairs are found by their places in a row.
            codes, _ = active_sorted(step.codes)
            found = similarity.of_decoder(W_dec, codes, form, penalty, weight or 0.0, gradient)
            if (c := apart(form)) > 0:
                alike = all_pairs.of_decoder_alike(W_dec, c, penalty, weight or 0.0, gradient)
                found = found._replace(loss=found.loss + alike)
        if gradient is not None:
            step.add_gradient("W_dec", gradient)
        return found

    def _of_activations(self, step: Step, form: Form, weight: float | None) -> Found:
        """The unweighted sum over products of codes; the values get its gradient, unless the weight is None."""
        codes, penalty = step.codes, self.settings.penalty
        # A JumpReLU's kernel uses the gradient of codes that are 0, which pairs of active latents do not have.
        if isinstance(codes, DenseCodes) or isinstance(step.sae, JumpReLU):
            dense = DenseCodes(codes.to_dense())
            gradient_BE = None if weight is None else torch.zeros_like(dense.values_BE)
            found = all_pairs.of_activations_tiles(dense, form, penalty, weight or 0.0, gradient_BE)
            if gradient_BE is not None:
                step.add_values_gradient(_in_layout(gradient_BE, codes))
            return found
        ordered, places_P = active_sorted(codes)
        gradient_P = None if weight is None else torch.zeros_like(ordered.values_P)
        found = similarity.of_activations(ordered, form, penalty, weight or 0.0, gradient_P)
        if gradient_P is not None:
            gradient = torch.zeros_like(codes.values)
            gradient[places_P] = gradient_P
            step.add_values_gradient(gradient)
        return found

    def _monitor(self, step: Step, form: Form, found: Found) -> None:
        """The pairs that compete, and what `sigmoid_co_active` leaves out."""
        step.monitors["orthogonality/competing_pairs"] = float(found.n_pairs)
        name = "mean_abs_cos" if self.settings.on == "decoder" else "mean_abs_product"
        step.monitors[f"orthogonality/{name}"] = found.absolute / max(found.n_pairs, 1)
        # Of activations nothing is left out: latents that are never active together have product 0.
        if form.shape == "sigmoid_co_active" and self.settings.on == "decoder":
            whole = self._of_decoder(step, form._replace(shape="sigmoid"), None).loss
            step.monitors["orthogonality/share_left_out"] = 1 - found.loss / whole if whole > 0 else 0.0

    def _watch(self, step: Step, form: Form) -> None:
        """Competition, decoder cosine and correlation of the activations of the watched pairs, as monitors."""
        if not self.settings.watch:
            return
        first, second = torch.tensor(self.settings.watch, device=step.target_BM.device).T
        shares = competition_of_any(between(step.codes, first, second), form) / 2
        W_dec = step.sae.W_dec
        cosines = torch.nn.functional.cosine_similarity(W_dec[first], W_dec[second], dim=1)
        correlations = _correlations(*(activations(step.codes, latents).double() for latents in (first, second)))
        for place, (i, j) in enumerate(self.settings.watch):
            step.monitors[f"orthogonality/c_{i}_{j}"] = shares[place]
            step.monitors[f"orthogonality/cos_{i}_{j}"] = cosines[place]
            step.monitors[f"orthogonality/correlation_{i}_{j}"] = correlations[place]

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


def _in_layout(gradient_BE: Tensor, codes: Codes) -> Tensor:
    """A gradient of the codes' full matrix in the layout of their values."""
    if isinstance(codes, DenseCodes):
        return gradient_BE
    return gradient_BE[codes.rows_P.long(), codes.indices_P.long()]


def _correlations(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of each column of one with that of the other, over rows; NaN where a column is constant."""
    one, other = (columns - columns.mean(0) for columns in (one, other))
    return (one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0))
