"""The loss as a sum of named terms, and its gradients, written out by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.objective.adaptive_lp import FrequencyWeightedLp, PAnneal
from strata_sae.pipeline.objective.aux_k import AuxK, GhostGradients
from strata_sae.pipeline.objective.gated_auxiliary import GatedAuxiliary
from strata_sae.pipeline.objective.gradients import backward
from strata_sae.pipeline.objective.monitors import MonitoredStep, of_gradients, of_terms
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
        *,
        monitored: bool = False,
    ) -> StepResult:
        """Loss and gradients of a batch at `fraction_done` (share of the run done); dead_E (bool) feeds AuxK.

        `encoding`: of this batch at this point, where the caller has it already (active latents are counted first).
        `target_BM`: what is to be reconstructed, where that is not x_BM. `monitored`: whether to measure what is only
        worth logging; loss and gradients have the same bits either way.
        """
        encoding = encoding or self.sae.encode(x_BM, fraction_done=fraction_done, workspace=workspace)
        target_BM = x_BM if target_BM is None else target_BM
        kind = MonitoredStep if monitored else Step
        step = kind(self.sae, target_BM, encoding, self.sae.decode(encoding.codes), dead_E, fraction_done)
        losses: dict[str, Tensor] = {}
        norms: dict[str, dict[str, Tensor]] = {}
        for name, term in self.terms.items():
            if isinstance(step, MonitoredStep):
                step.begin()
            losses[name] = term.add(step)
            if isinstance(step, MonitoredStep):
                norms[name] = step.gradient_norms()
        losses |= self._of_all_ranks(losses)
        loss = torch.stack(list(losses.values())).sum()
        gradients = backward(step)
        if monitored:
            step.monitors |= of_terms(self.terms, losses, fraction_done) | of_gradients(
                norms, gradients, self.sae.ranks
            )
        return StepResult(loss, losses, gradients, encoding.codes, encoding, step.xhat_BM, step.monitors)

    def _of_all_ranks(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses that are sums over latents, those of other ranks added; one exchange for all."""
        parts = {name: loss for name, loss in losses.items() if self.terms[name].sums_over_latents}
        if self.sae.ranks.n == 1 or not parts:
            return {}
        return dict(zip(parts, self.sae.ranks.sum(torch.stack(list(parts.values()))).unbind(), strict=True))

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
