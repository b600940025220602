"""Loss terms, one file per family. To add one, write a file with a class like L1, and a line in objective.py."""

from strata_sae.pipeline.objective.objective import TERMS, Objective, StepResult, check_terms

__all__ = ["TERMS", "Objective", "StepResult", "check_terms"]
