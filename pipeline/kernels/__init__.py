"""The few operations of which every SAE is made, forward and backward, on sparse or dense codes."""

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes

__all__ = ["Codes", "DenseCodes", "SparseCodes"]
