"""The loss terms by name."""

from pipeline.objective.aux_k import AuxK
from pipeline.objective.orthogonality import Orthogonality
from pipeline.objective.prefix_reconstruction import PrefixReconstruction
from pipeline.objective.reconstruction import Reconstruction
from pipeline.objective.sparsity import L1
from pipeline.objective.term import Term

TERMS: dict[str, type[Term]] = {
    "reconstruction": Reconstruction,
    "l1": L1,
    "prefix_reconstruction": PrefixReconstruction,
    "aux_k": AuxK,
    "orthogonality": Orthogonality,
}
