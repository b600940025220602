"""AuxK: dead latents explain what the living ones leave over, so that they come back to life."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, SparseCodes
from strata_sae.pipeline.kernels.selection import row_topk
from strata_sae.pipeline.objective.aux_forms import FORMS, AuxForm, FormName
from strata_sae.pipeline.objective.fits import needs_runners_up
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import Value, value_at


class AuxK(Term):
    """weight * squared error of the residual's reconstruction by the top dead latents, over the residual's variance.

    min(d_model // 2, number of dead latents) dead latents per row, without decoder bias; residual and variance are
    constants. Costs nothing while no latent is dead. That is the default form; aux_forms.py has the others.
    Source: Gao et al. 2024, appendix A.2, in the form of dictionary_learning.
    """

    class Settings(TermSettings):
        """Settings of the AuxK term."""

        term: Literal["aux_k"] = "aux_k"
        """Name in TERMS."""
        weight: Value = 1 / 32
        """Factor of this term in the loss. Default: the paper's; SAELens has 1, overcomplete 0.1."""
        form: FormName = "dictionary_learning"
        """Whose details: see aux_forms.py."""
        k_aux: int | None = Field(default=None, gt=0)
        """Dead latents on per row (count). null: the form's."""

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Not relu: there a dead latent has no positive pre-activation, so the term would do nothing."""
        needs_runners_up(settings, sae_settings)

    def add(self, step: Step) -> Tensor:
        """The auxiliary loss, with gradients on the candidates' rows only."""
        form = FORMS[self.settings.form]
        rows = _candidates(step, form)
        n_candidates = step.sae.d_sae if rows is None else rows.numel()
        if n_candidates == 0 and not form.always:
            return step.target_BM.new_zeros(())
        residual_BM = step.target_BM - step.xhat_BM
        divisor = _divisor(residual_BM, step.target_BM, form)
        if divisor == 0:
            return step.target_BM.new_zeros(())
        k = self.settings.k_aux or _form_k(step, form)
        weight = value_at(self.settings.weight, step.fraction_done) / divisor
        if form.fewer_weigh_less:
            weight *= min(n_candidates / k, 1.0)

        W_dec = step.sae.W_dec if rows is None else step.sae.W_dec[rows]
        codes = _top(_candidate_pre(step, rows), min(k, n_candidates), form.negative, step.sae.break_even_density)
        difference_BM = codes.decode(W_dec) - residual_BM
        if form.bias == "prediction":
            difference_BM += step.sae.b_dec
        gradient_BM = difference_BM * (2 * weight)
        if form.bias != "none":
            step.add_gradient("b_dec", gradient_BM.sum(0))
        if not form.constant_residual:
            step.add_xhat_gradient(gradient_BM)
        values_gradient = codes.dots(gradient_BM, W_dec)
        if not form.negative:
            values_gradient = values_gradient * (codes.values > 0)
        step.add_gradient("W_dec", codes.transposed_times(gradient_BM), rows=rows)
        step.add_gradient("W_enc", codes.transposed_times(step.encoding.x0_BM, values_gradient), rows=rows)
        step.add_gradient("b_enc", codes.latent_sums(values_gradient), rows=rows)
        return weight * difference_BM.square().sum()


def _candidates(step: Step, form: AuxForm) -> Tensor | None:
    """The latents that may explain the residual; None: all, where they are not on."""
    if form.candidates == "not_chosen":
        return None
    if step.dead_E is None:
        return torch.empty(0, dtype=torch.int64, device=step.target_BM.device)
    return step.dead_E.nonzero().squeeze(1)


def _candidate_pre(step: Step, rows: Tensor | None) -> Tensor:
    """Their pre-activations, one column for each."""
    if rows is not None:
        return step.encoding.pre_of(rows)
    return torch.where(step.codes.to_dense() > 0, 0.0, step.encoding.pre_BE)


def _form_k(step: Step, form: AuxForm) -> int:
    """Candidates on per row."""
    return {
        "half_d_model": max(step.target_BM.shape[1] // 2, 1),
        "half_d_sae": max(step.sae.d_sae // 2, 1),
        "twice_k": 2 * int(step.sae.target_l0(step.fraction_done) or 0),
        "256": 256,
    }[form.k]


def _divisor(residual_BM: Tensor, target_BM: Tensor, form: AuxForm) -> float:
    """What the summed squared error is divided by."""
    if form.over in ("rows", "elements"):
        return target_BM.shape[0] if form.over == "rows" else target_BM.numel()
    varying_BM = residual_BM if form.over == "residual_variance" else target_BM
    return float((varying_BM - varying_BM.mean(0)).square().sum())


def _top(pre_BE: Tensor, k: int, negative: bool, break_even_density: float) -> Codes:
    """The k largest of each row of the candidates; a negative one is 0, unless `negative`."""
    if not negative:
        return row_topk(pre_BE, k, break_even_density)
    values_BK, indices_BK = pre_BE.topk(k, dim=1, sorted=False)
    offsets = torch.arange(0, values_BK.numel() + 1, k, device=pre_BE.device)
    return SparseCodes(values_BK.reshape(-1), indices_BK.reshape(-1), offsets, pre_BE.shape[1])
