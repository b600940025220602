"""Engines decide who runs which item where; they know no stage, and a command chooses one and hands it to a stage."""

from strata_sae.pipeline.engines.engine import Engine
from strata_sae.pipeline.engines.local import Local

__all__ = ["Engine", "Local"]
