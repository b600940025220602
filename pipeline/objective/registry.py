"""The loss terms by name."""

from pipeline.objective.aux_k import AuxK
from pipeline.objective.frequency_weighted_lp import FrequencyWeightedLp
from pipeline.objective.gated_auxiliary import GatedAuxiliary
from pipeline.objective.ghost_gradients import GhostGradients
from pipeline.objective.hierarchical_topk import HierarchicalTopK
from pipeline.objective.l0 import L0
from pipeline.objective.lp import Lp
from pipeline.objective.multi_k import MultiK
from pipeline.objective.ort_sae import OrtSAE
from pipeline.objective.orthogonality import Orthogonality
from pipeline.objective.p_anneal import PAnneal
from pipeline.objective.pre_activation import PreActivation
from pipeline.objective.prefix_reconstruction import PrefixReconstruction
from pipeline.objective.reconstruction import Reconstruction
from pipeline.objective.sparsity import L1, L1DecoderNorm
from pipeline.objective.term import Term
from pipeline.objective.two_child_cosine import TwoChildCosine

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
