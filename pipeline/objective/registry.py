"""The loss terms by name."""

from strata_sae.pipeline.objective.aux_k import AuxK
from strata_sae.pipeline.objective.frequency_weighted_lp import FrequencyWeightedLp
from strata_sae.pipeline.objective.gated_auxiliary import GatedAuxiliary
from strata_sae.pipeline.objective.ghost_gradients import GhostGradients
from strata_sae.pipeline.objective.hierarchical_topk import HierarchicalTopK
from strata_sae.pipeline.objective.l0 import L0
from strata_sae.pipeline.objective.lp import Lp
from strata_sae.pipeline.objective.multi_k import MultiK
from strata_sae.pipeline.objective.ort_sae import OrtSAE
from strata_sae.pipeline.objective.orthogonality import Orthogonality
from strata_sae.pipeline.objective.p_anneal import PAnneal
from strata_sae.pipeline.objective.pre_activation import PreActivation
from strata_sae.pipeline.objective.prefix_reconstruction import PrefixReconstruction
from strata_sae.pipeline.objective.reconstruction import Reconstruction
from strata_sae.pipeline.objective.sparsity import L1, L1DecoderNorm
from strata_sae.pipeline.objective.term import Term
from strata_sae.pipeline.objective.two_child_cosine import TwoChildCosine

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
