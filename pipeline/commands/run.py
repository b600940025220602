"""`strata run`: all stages."""

import typer

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, Rehash, config_of, guard


def run(context: typer.Context, config: ConfigFile, overrides: Overrides, rehash: Rehash = False) -> None:
    """All four stages; finished parts are skipped."""
    guard(context, config, overrides)
    from strata_sae.pipeline.config.run import ExtractConfig, ToyConfig, TrainConfig

    settings = config_of(config, overrides, rehash)
    to_extract = ExtractConfig.of(settings, config) if settings.model or settings.corpus else None
    toy = ToyConfig.of(settings, config) if settings.toy else None
    stages.run_stages(TrainConfig.of(settings, config), to_extract, toy)
