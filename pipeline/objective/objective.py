"""The loss as a sum of named terms, and its gradients, written out by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.objective.adaptive_lp import FrequencyWeightedLp, PAnneal
from strata_sae.pipeline.objective.aux_k import AuxK, GhostGradients
from strata_sae.pipeline.objective.gated_auxiliary import GatedAuxiliary
from strata_sae.pipeline.objective.ort_sae import OrtSAE
from strata_sae.pipeline.objective.orthogonality import Orthogonality
from strata_sae.pipeline.objective.partial_reconstruction import HierarchicalTopK, MultiK, PrefixReconstruction
from strata_sae.pipeline.objective.reconstruction import Reconstruction
from strata_sae.pipeline.objective.sparsity import L1, L1DecoderNorm, Lp
from strata_sae.pipeline.objective.term import Step, Term, TermSettings
from strata_sae.pipeline.objective.thresholds import L0, PreActivation
from strata_sae.pipeline.objective.two_child_cosine import TwoChildCosine
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE, Encoding, SAESettings, Workspace

TERMS: dict[str, type[Term]] = {
    "reconstruction": Reconstruction,
    "prefix_reconstruction": PrefixReconstruction,
    "hierarchical_topk": HierarchicalTopK,
    "multi_k": MultiK,
    "l1": L1,
    "l1_decoder_norm": L1DecoderNorm,
    "lp": Lp,
    "p_anneal": PAnneal,
    "frequency_weighted_lp": FrequencyWeightedLp,
    "aux_k": AuxK,
    "ghost_gradients": GhostGradients,
    "orthogonality": Orthogonality,
    "ort_sae": OrtSAE,
    "gated_auxiliary": GatedAuxiliary,
    "l0": L0,
    "pre_activation": PreActivation,
    "two_child_cosine": TwoChildCosine,
}
"""Name -> term."""


@dataclass(frozen=True)
class StepResult:
    """Loss and gradients of one batch."""

    loss: Tensor
    """0-dim: the sum of `losses`."""
    losses: dict[str, Tensor]
    """Each term's weighted loss, 0-dim."""
    gradients: dict[str, Tensor]
    """dloss/dparameter by checkpoint key."""
    codes: Codes
    encoding: Encoding
    xhat_BM: Tensor
    monitors: dict[str, Tensor | float]
    """Numbers for the log; nothing depends on them."""


class Objective:
    """A sum of terms over one SAE.

    Raises: ValueError for an unknown term, a term that does not fit the architecture, or not exactly one term that
    reconstructs.
    """

    def __init__(self, term_settings: Mapping[str, TermSettings], sae: SAE):
        check_terms(term_settings, sae.settings)
        self.sae = sae
        self.terms: dict[str, Term] = {name: TERMS[name](settings) for name, settings in term_settings.items()}

    def forward_backward(
        self,
        x_BM: Tensor,
        dead_E: Tensor | None = None,
        fraction_done: float = 1.0,
        workspace: Workspace | None = None,
        encoding: Encoding | None = None,
        target_BM: Tensor | None = None,
    ) -> StepResult:
        """Loss and gradients of a batch at `fraction_done` (share of the run done); dead_E (bool) feeds AuxK.

        `encoding`: of this batch at this point, where the caller has it already (active latents are counted first).
        `target_BM`: what is to be reconstructed, where that is not x_BM.
        """
        encoding = encoding or self.sae.encode(x_BM, fraction_done=fraction_done, workspace=workspace)
        target_BM = x_BM if target_BM is None else target_BM
        step = Step(self.sae, target_BM, encoding, self.sae.decode(encoding.codes), dead_E, fraction_done)
        losses: dict[str, Tensor] = {}
        owners: list[str] = []
        for name, term in self.terms.items():
            losses[name] = term.add(step)
            owners += [name] * (len(step.direct) - len(owners))
        loss = torch.stack(list(losses.values())).sum()
        pulls = _pulls(step, owners, self.terms)
        gradients = _backward(step)
        monitors = {**step.monitors, **_shares(self.terms, losses, loss), **_pull_shares(pulls, gradients)}
        return StepResult(loss, losses, gradients, encoding.codes, encoding, step.xhat_BM, monitors)

    def state(self) -> dict[str, Tensor]:
        """What the terms keep between steps, for checkpoints."""
        return {f"{name}.{key}": value for name, term in self.terms.items() for key, value in term.state().items()}

    def for_readers(self) -> dict[str, Tensor]:
        """What the final file holds of the terms, by key."""
        return {key: tensor for term in self.terms.values() for key, tensor in term.for_readers().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state."""
        for name, term in self.terms.items():
            prefix = f"{name}."
            term.load_state({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)})


def check_terms(term_settings: Mapping[str, TermSettings], sae_settings: SAESettings) -> None:
    """Raises: ValueError if the terms do not make an objective for this architecture."""
    for name, settings in term_settings.items():
        if name not in TERMS:
            raise ValueError(f"term {name!r} is unknown; known: {', '.join(TERMS)}")
        if not ARCHITECTURES[sae_settings.architecture].learns and name != "reconstruction":
            raise ValueError(f"term {name!r} has nothing to train in {sae_settings.architecture!r}; remove it")
        TERMS[name].check(settings, sae_settings)
    reconstructing = [name for name in term_settings if TERMS[name].reconstructs]
    if len(reconstructing) != 1:
        choices = ", ".join(name for name, term in TERMS.items() if term.reconstructs)
        found = ", ".join(reconstructing) or "none"
        raise ValueError(f"an objective needs exactly one term that reconstructs ({choices}), got {found}")


def _backward(step: Step) -> dict[str, Tensor]:
    """From dloss/dxhat, dloss/dvalues and the direct gradients to the gradients of all parameters."""
    sae, codes = step.sae, step.codes
    shared: dict[str, Tensor] = {}
    if step.error_gradient_BM is not None:
        step.add_values_gradient(codes.dots(step.error_gradient_BM, sae.W_dec))
        space = step.encoding.space_for("W_dec", sae.W_dec)
        shared["W_dec"] = codes.transposed_times(step.error_gradient_BM, out=space)
        shared["b_dec"] = step.error_gradient_BM.sum(0)
    for name, gradient in sae.backward(step.encoding, step.values_gradient, step.penalty_gradient).items():
        shared[name] = shared[name] + gradient if name in shared else gradient
    unknown = {name for name, _, _ in step.direct} - sae.parameters().keys()
    if unknown:
        raise ValueError(f"a term adds a gradient of {', '.join(sorted(unknown))}, which this SAE does not train")
    gradients = {
        name: _total(parameter, shared.get(name), [(d, rows) for owner, d, rows in step.direct if owner == name])
        for name, parameter in sae.parameters().items()
    }
    if sae.settings.pre_bias:
        # x0 = x - b_dec, so b_dec gets minus the gradient of x0: summed over rows first, it is one matrix-vector
        # product.
        gradients["b_dec"] = gradients["b_dec"] - sae.input_gradient(gradients)
    return gradients


def _total(parameter: Tensor, shared: Tensor | None, direct: list[tuple[Tensor, Tensor | None]]) -> Tensor:
    """The sum of a parameter's gradients, written into the first of them; direct ones may cover only some rows."""
    whole = [gradient for gradient in (shared, *(g for g, rows in direct if rows is None)) if gradient is not None]
    total = whole[0] if whole else torch.zeros_like(parameter)
    for gradient in whole[1:]:
        total += gradient
    for gradient, rows in direct:
        if rows is not None:
            total[rows] += gradient
    return total


def _shares(terms: Mapping[str, Term], losses: Mapping[str, Tensor], loss: Tensor) -> dict[str, Tensor | float]:
    """For each term that does not reconstruct: its share of the loss."""
    loss = loss.clamp(min=torch.finfo(loss.dtype).tiny)  # a loss of 0 has shares of 0, not NaN
    return {f"{name}/loss_share": losses[name] / loss for name, term in terms.items() if not term.reconstructs}


def _pulls(step: Step, owners: list[str], terms: Mapping[str, Term]) -> dict[str, Tensor]:
    """For each term that does not reconstruct: the norm of its own gradient of W_dec."""
    return {
        owner: gradient.norm()
        for owner, (name, gradient, _) in zip(owners, step.direct, strict=True)
        if name == "W_dec" and not terms[owner].reconstructs
    }


def _pull_shares(pulls: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor | float]:
    """Each of these norms over the norm of the whole gradient."""
    if not pulls:
        return {}
    whole = gradients["W_dec"].norm().clamp(min=torch.finfo(gradients["W_dec"].dtype).tiny)
    return {f"{owner}/gradient_share": pull / whole for owner, pull in pulls.items()}
