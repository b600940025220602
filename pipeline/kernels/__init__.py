"""The few operations every SAE reduces to, forward and backward, on sparse or dense codes."""

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes

__all__ = ["Codes", "DenseCodes", "SparseCodes"]
