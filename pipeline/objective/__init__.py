"""Loss terms, one file per family. Adding one = a file with a class like L1, and a line in registry.py."""

from strata_sae.pipeline.objective.objective import Objective, StepResult, check_terms
from strata_sae.pipeline.objective.registry import TERMS

__all__ = ["TERMS", "Objective", "StepResult", "check_terms"]
