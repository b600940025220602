"""`strata report`: stage 4."""

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, config_of


def report(config: ConfigFile, overrides: Overrides) -> None:
    """Stage 4: one HTML page and one CSV table."""
    stages.write_report(config_of(config, overrides))
