"""`strata evaluate`: stage 3."""

import typer

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.commands.arguments import ConfigFile, Overrides, config_of, guard


def evaluate(context: typer.Context, config: ConfigFile, overrides: Overrides) -> None:
    """Stage 3: scores of every SAE on held-out rows."""
    guard(context, config, overrides)
    from strata_sae.pipeline.config.run import TrainConfig

    stages.evaluate_saes(TrainConfig.of(config_of(config, overrides), config))
