"""`strata toy`: rows whose features are known, as a store."""

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, config_of


def toy(config: ConfigFile, overrides: Overrides) -> None:
    """Made-up rows with known features to an activation store, in the place of stage 1."""
    from strata_sae.pipeline.config.run import ToyConfig

    stages.make_toy(ToyConfig.of(config_of(config, overrides), config))
