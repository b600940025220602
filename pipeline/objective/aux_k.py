"""Terms by which dead latents learn to reconstruct what the others leave over: AuxK and ghost gradients."""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, SparseCodes
from strata_sae.pipeline.objective.term import Step, Term, TermSettings, needs_runners_up
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import Value, value_at
from strata_sae.pipeline.sharding import cut

FormName = Literal["dictionary_learning", "openai", "sparsify", "sae_lens", "hypothesaes", "overcomplete"]


@dataclass(frozen=True, kw_only=True)
class AuxForm:
    """The details in which libraries' AuxK differ; the defaults are dictionary_learning's."""

    candidates: Literal["dead", "not_chosen"] = "dead"
    """Which latents may explain the residual: the dead ones, or all that are not active in the row."""
    k: Literal["half_d_model", "half_d_sae", "twice_k", "256"] = "half_d_model"
    """Active candidates per row (count); never more than there are."""
    negative: bool = False
    """Whether a candidate's negative pre-activation counts as it is, instead of as 0."""
    over: Literal["residual_variance", "target_variance", "rows", "elements"] = "residual_variance"
    """What the summed squared error is divided by; variance: squared deviation from the batch's mean, summed."""
    fewer_weigh_less: bool = False
    """Whether the loss is multiplied by min(dead / k, 1)."""
    bias: Literal["none", "both", "prediction"] = "none"
    """Where b_dec is added: nowhere; to the prediction and, as a constant, to the residual, so that only its gradient
    differs; or to the prediction alone, although the residual is without it."""
    constant_residual: bool = True
    """Whether no gradient flows through the residual."""
    always: bool = False
    """Whether the term counts while no latent is dead; it is then a constant, apart from the bias."""


FORMS: dict[FormName, AuxForm] = {
    "dictionary_learning": AuxForm(),
    "openai": AuxForm(k="256", bias="both", always=True),
    "sparsify": AuxForm(over="target_variance", fewer_weigh_less=True, bias="prediction"),
    "sae_lens": AuxForm(over="rows", fewer_weigh_less=True, negative=True),
    "hypothesaes": AuxForm(k="twice_k", always=True),
    "overcomplete": AuxForm(candidates="not_chosen", k="half_d_sae", over="elements", constant_residual=False),
}
"""Their weights: 1/32, but for sparsify (0: off), sae_lens (1) and overcomplete (0.1). Read from their sources:
dictionary_learning's top_k.py; openai/sparse_autoencoder's train.py and kernels.py; sparsify's sparse_coder.py, whose
hand-written backward drops this loss's gradient of the encoder, which here is kept; SAELens 6.54's topk_sae.py;
HypotheSAEs' sae.py; overcomplete's losses.py."""


class AuxK(Term):
    """weight * squared error of the residual's reconstruction by the top dead latents, over the residual's variance.

    min(d_model // 2, number of dead latents) dead latents per row, without decoder bias; residual and variance are
    constants. Costs nothing while no latent is dead. FORMS has the forms of other libraries.
    Source: Gao et al. 2024, appendix A.2, in the form of dictionary_learning.
    """

    class Settings(TermSettings):
        """Settings of the AuxK term."""

        term: Literal["aux_k"] = "aux_k"
        """Name in TERMS."""
        weight: Value = 1 / 32
        """Factor of this term in the loss. Default: the paper's; SAELens has 1, overcomplete 0.1."""
        form: FormName = "dictionary_learning"
        """The library whose details are used: see FORMS in objective/aux_k.py."""
        k_aux: int | None = Field(default=None, gt=0)
        """Active dead latents per row (count). null: the form's."""

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Not relu: there a dead latent has no positive pre-activation, and the term would do nothing."""
        needs_runners_up(settings, sae_settings)

    def add(self, step: Step) -> Tensor:
        """The auxiliary loss, with gradients on the candidates' rows only."""
        form = FORMS[self.settings.form]
        rows = _candidates(step, form)
        ranks = step.sae.ranks
        n_candidates = step.sae.settings.d_sae if rows is None else ranks.count(rows.numel())
        if n_candidates == 0 and not form.always:
            return step.target_BM.new_zeros(())
        residual_BM = step.target_BM - step.xhat_BM
        divisor = _divisor(residual_BM, step.target_BM, form)
        if divisor == 0:  # nothing is left over
            return step.target_BM.new_zeros(())
        k = self.settings.k_aux or _form_k(step, form)
        weight = value_at(self.settings.weight, step.fraction_done) / divisor
        if form.fewer_weigh_less:
            weight *= min(n_candidates / k, 1.0)

        W_dec = step.sae.W_dec if rows is None else step.sae.W_dec[rows]
        codes = _top(step, _candidate_pre(step, rows), min(k, n_candidates), n_candidates, form.negative)
        difference_BM = ranks.sum(codes.decode(W_dec)) - residual_BM
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
    """The latents that may explain the residual; None: all, in rows where they are not active."""
    if form.candidates == "not_chosen":
        return None
    if step.dead_E is None:
        return torch.empty(0, dtype=torch.int64, device=step.target_BM.device)
    return step.dead_E.nonzero().squeeze(1)


def _candidate_pre(step: Step, rows: Tensor | None) -> Tensor:
    """The candidates' pre-activations, one column for each."""
    if rows is not None:
        return step.encoding.pre_of(rows)
    return torch.where(step.codes.to_dense() > 0, 0.0, step.encoding.pre_BE)


def _form_k(step: Step, form: AuxForm) -> int:
    """Active candidates per row, as the form says (count)."""
    return {
        "half_d_model": max(step.target_BM.shape[1] // 2, 1),
        "half_d_sae": max(step.sae.settings.d_sae // 2, 1),
        "twice_k": 2 * int(step.sae.target_l0(step.fraction_done) or 0),
        "256": 256,
    }[form.k]


def _divisor(residual_BM: Tensor, target_BM: Tensor, form: AuxForm) -> float:
    """What the summed squared error is divided by."""
    if form.over in ("rows", "elements"):
        return target_BM.shape[0] if form.over == "rows" else target_BM.numel()
    varying_BM = residual_BM if form.over == "residual_variance" else target_BM
    return float((varying_BM - varying_BM.mean(0)).square().sum())


def _top(step: Step, pre_BE: Tensor, k: int, n_candidates: int, negative: bool) -> Codes:
    """The k largest of each row of the candidates of all ranks; a negative one is 0, unless `negative`.

    pre_BE: those that are here, of n_candidates.
    """
    # row_topk sets negative values to 0 and may give dense codes; SAELens' form needs the values as they are.
    if not negative:
        return cut.row_topk(step.sae.ranks, pre_BE, k, n_candidates, step.sae.break_even_density)
    if step.sae.ranks.n > 1:
        return cut.kept_of_rows(step.sae.ranks, pre_BE, k)
    values_BK, indices_BK = pre_BE.topk(k, dim=1, sorted=False)
    offsets = torch.arange(0, values_BK.numel() + 1, k, device=pre_BE.device)
    return SparseCodes(values_BK.reshape(-1), indices_BK.reshape(-1), offsets, pre_BE.shape[1])


SMALL = 1e-6
"""Added to norms and to squared errors that divide, so that quotients are finite. Source: SAELens."""


class GhostGradients(Term):
    """weight * squared error of the residual's reconstruction by exp(pre-activations) of the dead latents, rescaled.

    Each row of that reconstruction is scaled to half the residual's norm, and the error then to the size of the
    SAE's own error; the residual and both scales are constants. Costs nothing while no latent is dead.
    Source: Anthropic, Circuits Updates January 2024, "Ghost Grads"; SAELens before version 6 (`use_ghost_grads`).
    """

    class Settings(TermSettings):
        """Settings of the ghost gradients term."""

        term: Literal["ghost_gradients"] = "ghost_gradients"
        """Name in TERMS."""
        rescale: Literal["batch", "elements"] = "batch"
        """The error is scaled to the size of the batch's, as in Anthropic's text, or of each element's (SAELens, which
        then takes the mean over dimensions: its weight 1 is 1 / d_model here)."""

    settings: Settings

    @classmethod
    def check(cls, settings: TermSettings, sae_settings: SAESettings) -> None:
        """Only relu with an encoder of its own."""
        if sae_settings.architecture != "relu":
            raise ValueError(
                f"term 'ghost_gradients' needs the architecture 'relu', got {sae_settings.architecture!r}; remove it, "
                "or use the term 'aux_k' where it fits"
            )
        if getattr(sae_settings, "tied", False):
            raise ValueError("term 'ghost_gradients' moves the encoder by itself; set sae.tied to false")

    def add(self, step: Step) -> Tensor:
        """The rescaled error, with gradients on the dead latents' rows only."""
        weight = value_at(self.settings.weight, step.fraction_done) / step.target_BM.shape[0]
        if step.dead_E is None or weight == 0 or not bool(step.dead_E.any()):
            return step.target_BM.new_zeros(())
        dead = step.dead_E.nonzero().squeeze(1)
        W_dead = step.sae.W_dec[dead]
        residual_BM = step.target_BM - step.xhat_BM
        exp_BE = step.encoding.pre_of(dead).exp()  # of the dead latents only
        ghost_BM = exp_BE @ W_dead
        scale_B = residual_BM.norm(dim=1) / (SMALL + 2 * ghost_BM.norm(dim=1))
        difference_BM = ghost_BM * scale_B[:, None] - residual_BM
        rescale = self._rescale(residual_BM.square(), difference_BM.square())

        gradient_BM = difference_BM * rescale * scale_B[:, None] * (2 * weight)
        pre_gradient_BE = (gradient_BM @ W_dead.T) * exp_BE
        step.add_gradient("W_dec", exp_BE.T @ gradient_BM, rows=dead)
        step.add_gradient("W_enc", pre_gradient_BE.T @ step.encoding.x0_BM, rows=dead)
        step.add_gradient("b_enc", pre_gradient_BE.sum(0), rows=dead)
        return weight * (difference_BM.square() * rescale).sum()

    def _rescale(self, error_BM: Tensor, ghost_error_BM: Tensor) -> Tensor:
        """The reconstruction's squared error over the ghosts', of the whole batch or element by element."""
        if self.settings.rescale == "elements":
            return error_BM / (ghost_error_BM + SMALL)
        return error_BM.sum() / ghost_error_BM.sum().clamp(min=torch.finfo(error_BM.dtype).tiny)
