"""AuxK as each library has it: one idea, and a table of the details that differ."""

from dataclasses import dataclass
from typing import Literal

FormName = Literal["dictionary_learning", "openai", "sparsify", "sae_lens", "hypothesaes", "overcomplete"]


@dataclass(frozen=True, kw_only=True)
class AuxForm:
    """What distinguishes one library's AuxK; the defaults are dictionary_learning's."""

    candidates: Literal["dead", "not_chosen"] = "dead"
    """Who may explain the residual: the dead latents, or all that are not on in the row."""
    k: Literal["half_d_model", "half_d_sae", "twice_k", "256"] = "half_d_model"
    """Candidates on per row, the number of candidates at most."""
    negative: bool = False
    """Whether a candidate's negative pre-activation counts as it is, instead of as 0."""
    over: Literal["residual_variance", "target_variance", "rows", "elements"] = "residual_variance"
    """What the summed squared error is divided by; variance: squared deviation from the batch's mean, summed."""
    fewer_weigh_less: bool = False
    """Whether the loss is multiplied by min(dead / k, 1)."""
    bias: Literal["none", "both", "prediction"] = "none"
    """Where b_dec is added: nowhere; to prediction and, as a constant, residual, which leaves its gradient; or to the
    prediction only, although the residual is free of it."""
    constant_residual: bool = True
    """Whether no gradient flows through the residual."""
    always: bool = False
    """Whether it counts while no latent is dead: a constant, but for the bias."""


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
