"""`strata run`: all stages."""

import typer

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, Rehash, config_of, guard


def run(context: typer.Context, config: ConfigFile, overrides: Overrides, rehash: Rehash = False) -> None:
    """All four stages; finished parts are skipped."""
    guard(context, config, overrides)
    stages.run_stages(config_of(config, overrides, rehash))
