"""Every knob of every stage. `load` reads a YAML file strictly; nothing changes a config after that."""

from strata_sae.pipeline.config.loading import dump, load
from strata_sae.pipeline.config.run import RunConfig

__all__ = ["RunConfig", "dump", "load"]
