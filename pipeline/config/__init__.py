"""Every setting of every stage. `load` reads a YAML file strictly; nothing changes a config after that."""

from strata_sae.pipeline.config.loading import dump, load
from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.config.schema import json_schema

__all__ = ["RunConfig", "dump", "json_schema", "load"]
