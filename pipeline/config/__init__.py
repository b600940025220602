"""Every knob of every stage. `load` reads a YAML file strictly; nothing changes a config after that."""

from pipeline.config.loading import dump, load
from pipeline.config.run import RunConfig

__all__ = ["RunConfig", "dump", "load"]
